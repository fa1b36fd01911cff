/** The transport and the register as plain data, which can go to another thread, and made there of it. */
import { asMigrationError, MigrationError } from '../errors.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import type { Transport } from '../interfaces/transport.ts';
import { fileRegister } from '../registers/index.ts';
import { type TcpOptions, type TlsOptions, tcp, tls } from '../transports/index.ts';

/** A plug point of the embedder's own that is made in the engine's thread. */
export interface WorkerModule {
  /**
   * What that thread imports: a `file:` URL, as of `new URL('./my-transport.js', import.meta.url)`, or a
   * package's name. It is an instance of its own there, and shares nothing with the one that the main thread
   * may have imported.
   */
  readonly module: string | URL;
  /** The name of the function that it exports, which makes the plug point, or a promise of it. */
  readonly factory: string;
  /**
   * What that function is called with: anything that the structured clone algorithm can copy. Default:
   * undefined.
   */
  readonly options?: unknown;
}

/** How to reach the destination: TCP, TLS, or a transport of the embedder's own. */
export type WorkerTransport =
  | {
      /** What `tcp()` takes. */
      readonly tcp: TcpOptions;
    }
  | {
      /** What `tls()` takes. */
      readonly tls: Omit<TlsOptions, 'onRefused'>;
    }
  | WorkerModule;

/** A register that is in the engine's thread: `fileRegister(directory)`, or one of the embedder's own. */
export type WorkerRegister =
  | {
      /** Where its files are, as `fileRegister()` takes it. */
      readonly directory: string;
    }
  | WorkerModule;

/**
 * In the engine's thread. Throws `invalid-argument` as {@link tcp} and {@link tls} do, and what is wrong with
 * a module.
 */
export async function makeTransport(chosen: WorkerTransport): Promise<Transport> {
  return 'module' in chosen ? make<Transport>(chosen, 'open') : builtInTransport(chosen);
}

/** In the engine's thread. Throws `invalid-argument` for what is wrong with a module. */
export async function makeRegister(chosen: WorkerRegister): Promise<OwnershipRegister> {
  return 'module' in chosen ? make<OwnershipRegister>(chosen, 'claim') : fileRegister(chosen.directory);
}

/** Throws what a migration with this transport would be refused for, as far as that can be seen from here. */
export function checkTransport(chosen: WorkerTransport): void {
  if ('module' in chosen) return;
  if (builtInTransport(chosen).capabilities.open) return;
  throw new MigrationError('unsupported', "the source's transport cannot open connections");
}

function builtInTransport(chosen: Exclude<WorkerTransport, WorkerModule>): Transport {
  return 'tls' in chosen ? tls(chosen.tls) : tcp(chosen.tcp);
}

async function make<T>({ module, factory, options }: WorkerModule, method: keyof T & string): Promise<T> {
  try {
    const exported: Record<string, unknown> = await import(String(module));
    const function_ = exported[factory];
    if (typeof function_ !== 'function') throw new TypeError(`it exports no function ${factory}`);
    const made = await function_(options);
    if (typeof made?.[method] === 'function') return made;
    throw new TypeError(`what ${factory}() makes has no ${method}()`);
  } catch (error) {
    throw asMigrationError(error, 'invalid-argument', `the module ${module}`);
  }
}
