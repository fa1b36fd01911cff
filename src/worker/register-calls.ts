/**
 * An ownership register that is in the main thread, as the engine's thread sees it, and as it is called
 * there.
 */
import { makeReady } from '../core/handover/claim-time.ts';
import type { Claim, OwnershipRegister } from '../interfaces/register.ts';
import { type Deferred, deferred } from '../util/promises.ts';
import type { FromEngine, RegisterCall, ToEngine } from './messages.ts';
import { pack, unpack } from './pack.ts';

type Answer = Extract<ToEngine, { readonly type: 'answer' | 'refusal' }>;
type Call = Extract<FromEngine, { readonly type: 'call' }>;

/** In the engine's thread: each call is posted, and settles with what is answered. */
export class AskedRegister implements OwnershipRegister {
  readonly #post: (message: Call) => void;
  readonly #calls = new Map<number, Deferred<unknown>>();
  #last = 0;

  constructor(post: (message: Call) => void) {
    this.#post = post;
  }

  claim(...args: Parameters<OwnershipRegister['claim']>): ReturnType<OwnershipRegister['claim']> {
    return this.#ask({ method: 'claim', args }) as ReturnType<OwnershipRegister['claim']>;
  }

  async prepare(vmId: string): Promise<void> {
    await this.#ask({ method: 'prepare', args: [vmId] });
  }

  read(...args: Parameters<OwnershipRegister['read']>): ReturnType<OwnershipRegister['read']> {
    return this.#ask({ method: 'read', args }) as ReturnType<OwnershipRegister['read']>;
  }

  answered(answer: Answer): void {
    const call = this.#calls.get(answer.id);
    this.#calls.delete(answer.id);
    if (answer.type === 'answer') call?.resolve(answer.value);
    else call?.reject(unpack(answer.error));
  }

  #ask(call: RegisterCall): Promise<unknown> {
    this.#last += 1;
    const answer = deferred<unknown>();
    this.#calls.set(this.#last, answer);
    this.#post({ type: 'call', id: this.#last, call });
    return answer.promise;
  }
}

/**
 * In the main thread: makes a call of the embedder's register, and resolves to what is to be said of it. Does
 * not reject.
 */
export async function answerCall(register: OwnershipRegister, { id, call }: Call): Promise<Answer> {
  try {
    return { type: 'answer', id, value: await make(register, call) };
  } catch (error) {
    return { type: 'refusal', id, error: pack(error) };
  }
}

async function make(register: OwnershipRegister, call: RegisterCall): Promise<unknown> {
  if (call.method === 'claim') return pack(await register.claim(...call.args));
  if (call.method === 'prepare') return makeReady(register, ...call.args);
  const claims = await register.read(...call.args);
  // Of a claim's own class nothing would cross but its fields.
  return Array.from(claims, ({ epoch, role, value }): Claim => ({ epoch, role, value })).map(pack);
}
