import type { MigrationError } from '../../errors.ts';
import type { ByteRange, Content } from '../../interfaces/content.ts';
import { NbdServer } from '../nbd/nbd-server.ts';

/** Whom a tap's server tells what QEMU's mirror says, in the order in which it came. */
export interface TapServerHandler {
  /** A guest write. QEMU, and so the guest, is told when the promise resolves, or at once. */
  write(range: ByteRange, content: Content): Promise<void> | undefined;
  /** Guest writes to this range were not kept. */
  lost(range: ByteRange): void;
  /** All that was written before is told. */
  flush(): void;
  /** QEMU is gone, or the server. */
  disconnected(reason: MigrationError | undefined): void;
}

/** What is served, and where. */
export interface TapServerOptions {
  /** Of the socket: nothing may be there yet. */
  readonly path: string;
  /** Of the disk. */
  readonly sizeBytes: number;
}

/** A tap's server that listens. */
export interface TapServer {
  /** Hangs up; nobody is told of it. */
  close(): Promise<void>;
}

/** `min`: a write that is not a multiple would come as a read first. `max`: what one write can hold up. */
const blockBytes = { minimum: 1, preferred: 4096, maximum: 1024 * 1024 };

/** Serves in this thread. Rejects with `connect-failed`. */
export function serveTap(
  { path, sizeBytes }: TapServerOptions,
  handler: TapServerHandler,
): Promise<NbdServer> {
  return NbdServer.listen({
    address: { path },
    exports: [
      {
        sizeBytes,
        blockBytes,
        handler: {
          write: async (offset, data) => handler.write({ offset, length: data.length }, [data]),
          writeZeroes: async (offset, length) => handler.write({ offset, length }, 'zero'),
          flush: async () => handler.flush(),
          disconnected: (reason) => handler.disconnected(reason),
        },
      },
    ],
    connectionsMax: 1,
  });
}
