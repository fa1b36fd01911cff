/**
 * Plans of what goes wrong when. A plan is a list of faults; each says which call it concerns (`on`), which
 * of those calls, counted from 1 (`nth`), and what happens then (`do`):
 *
 * ```
 * faultyRegister(register, [{ on: 'claim', value: 'owner', do: 'fail-afterwards', code: 'register' }])
 * faultySourceVm(vm, { disks: { root: [{ on: 'read', nth: { from: 100 }, do: 'fail', code: 'disk-read' }] }
 * })
 * ```
 *
 * Every fault counts by itself, and only the calls that it concerns. What no fault concerns goes through
 * untouched, so a wrapper with an empty plan is the thing itself.
 */
import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { abortError, delay } from '../../util/promises.ts';

/** Which calls, counted from 1: that one, all of them, or all from one on. */
export type Nth = number | 'every' | FromNth;

/** See {@link Nth}. */
export interface FromNth {
  /** The first of them. */
  readonly from: number;
}

/** Which calls a fault concerns. */
export interface FaultTrigger<Call extends string> {
  /** The method's name. */
  readonly on: Call;
  /** Default: the first. */
  readonly nth?: Nth;
}

/**
 * What can go wrong with any call that returns a promise.
 *
 * - `fail`: it rejects with the code, and nothing was done.
 * - `fail-afterwards`: all was done, and then it rejects with the code: the answer was lost. What it made
 *   stays.
 * - `delay`: it begins so many milliseconds later, by the environment's clock. An abort ends the wait.
 * - `hang`: nothing is done, and it never settles, unless its signal is aborted (`aborted`).
 */
export type CallFault<Call extends string> = FaultTrigger<Call> & (CallFailure | CallDelay | CallHang);

/** See {@link CallFault}. */
export interface CallFailure {
  /** Whether it fails before anything was done, or after. */
  readonly do: 'fail' | 'fail-afterwards';
  /** The error's code. */
  readonly code: ErrorCode;
  /** The error's message. Default: that the fault was planned. */
  readonly message?: string;
}

/** See {@link CallFault}. */
export interface CallDelay {
  /** It comes late. */
  readonly do: 'delay';
  /** By how much: 0 or more. */
  readonly ms: number;
}

/** See {@link CallFault}. */
export interface CallHang {
  /** It never comes. */
  readonly do: 'hang';
}

/** One bit of what passes is turned over; the sender's own bytes are left alone. */
export type FlipFault<Call extends string> = FaultTrigger<Call> & {
  /** A bit is turned over. */
  readonly do: 'flip';
  /** Which byte of the call's content, counted from 0; the last one if there are fewer. Default 0. */
  readonly atByte?: number;
};

/** The call says that it did what it was asked for, and did nothing: nobody notices. */
export type DropFault<Call extends string> = FaultTrigger<Call> & {
  /** It is lost. */
  readonly do: 'drop';
};

/** Any fault of a plan. */
export type AnyFault = FaultTrigger<string> & {
  /** What happens. */
  readonly do: string;
};

/** What the wrappers take beside a plan. */
export interface FaultOptions {
  /** Time for delays. Default: the process's own. */
  readonly environment?: Environment;
  /** Called when a fault is about to happen, each time: how a test knows that it did. */
  readonly onFault?: (fault: AnyFault) => void;
}

/** A fault that {@link FaultSchedule.call} knows how to bring about. */
type Usual = CallFault<string>;

/** A plan at work: says which faults a call meets, and brings the usual ones about. */
export class FaultSchedule<Fault extends AnyFault> {
  readonly #faults: readonly { readonly fault: Fault; calls: number }[];
  readonly #environment: Environment;
  readonly #onFault: (fault: AnyFault) => void;

  /** Throws `invalid-argument` for a fault of a call that is not among `calls`, or that can never happen. */
  constructor(plan: readonly Fault[], calls: readonly Fault['on'][], options: FaultOptions = {}) {
    for (const fault of plan) checkFault(fault, calls);
    this.#faults = plan.map((fault) => ({ fault, calls: 0 }));
    this.#environment = options.environment ?? nodeEnvironment;
    this.#onFault = options.onFault ?? (() => {});
  }

  /** Whether there is any fault of this call, sooner or later. */
  plans(call: Fault['on']): boolean {
    return this.#faults.some(({ fault }) => fault.on === call);
  }

  /** Counts a call, and tells which faults it meets, in the order of the plan. */
  meets(call: Fault['on'], concerns: (fault: Fault) => boolean = () => true): readonly Fault[] {
    const met: Fault[] = [];
    for (const entry of this.#faults) {
      if (entry.fault.on !== call || !concerns(entry.fault)) continue;
      entry.calls += 1;
      if (!isDue(entry.fault.nth ?? 1, entry.calls)) continue;
      met.push(entry.fault);
      this.#onFault(entry.fault);
    }
    return met;
  }

  /**
   * Does what is asked for, with the faults that this call meets. Faults that are not usual are the caller's.
   */
  call<T>(
    call: Fault['on'],
    signal: AbortSignal | undefined,
    act: () => Promise<T>,
    concerns?: (fault: Fault) => boolean,
  ): Promise<T> {
    const met = this.meets(call, concerns);
    return met.length === 0 ? act() : this.around(met, signal, act);
  }

  /** Does what is asked for with the usual ones among these faults. */
  async around<T>(met: readonly Fault[], signal: AbortSignal | undefined, act: () => Promise<T>): Promise<T> {
    await this.before(met, signal);
    const result = await act();
    this.after(met);
    return result;
  }

  /** Brings about what comes before a call is carried out. */
  async before(met: readonly Fault[], signal: AbortSignal | undefined): Promise<void> {
    for (const fault of met as readonly Usual[]) {
      if (fault.do === 'delay') await delay(this.#environment, fault.ms, signal);
      if (fault.do === 'hang') await untilAborted(signal);
      if (fault.do === 'fail') throw faultError(fault);
    }
  }

  /** Brings about what comes after a call was carried out. */
  after(met: readonly Fault[]): void {
    for (const fault of met as readonly Usual[]) {
      if (fault.do === 'fail-afterwards') throw faultError(fault);
    }
  }
}

/** The error of a fault that fails a call. */
export function faultError(
  fault: FaultTrigger<string> & { code: ErrorCode; message?: string },
): MigrationError {
  return new MigrationError(fault.code, fault.message ?? `a planned fault of ${fault.on}`);
}

/** A copy of the chunks with one bit turned over; without any bytes, the chunks themselves. */
export function flipByte(chunks: readonly Uint8Array[], atByte = 0): readonly Uint8Array[] {
  const total = chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0);
  if (total === 0) return chunks;
  let at = Math.min(atByte, total - 1);
  return chunks.map((chunk) => {
    const here = at >= 0 && at < chunk.byteLength;
    // Not `slice()`, which copies nothing of a Buffer.
    const flipped = here ? new Uint8Array(chunk) : chunk;
    if (here) flipped[at] = (flipped[at] ?? 0) ^ 1;
    at -= chunk.byteLength;
    return flipped;
  });
}

function isDue(nth: Nth, calls: number): boolean {
  if (nth === 'every') return true;
  return typeof nth === 'number' ? calls === nth : calls >= nth.from;
}

function untilAborted(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    if (signal?.aborted) reject(abortError(signal));
    signal?.addEventListener('abort', () => reject(abortError(signal)), { once: true });
  });
}

/** What a fault may do beside the four of {@link CallFault}; which goes with which call is in the types. */
const doings = [
  ...['fail', 'fail-afterwards', 'delay', 'hang'],
  ...['flip', 'drop', 'tear', 'stall', 'invalidate', 'break'],
];

function checkFault(fault: AnyFault, calls: readonly string[]): void {
  const check = (holds: boolean, why: string) => {
    if (holds) return;
    throw new MigrationError('invalid-argument', `the fault ${JSON.stringify(fault)}: ${why}`);
  };
  const { on, nth = 1, do: what, code, ms } = fault as AnyFault & { code?: ErrorCode; ms?: number };
  check(calls.includes(on), `there is no such call; there are ${calls.join(', ')}`);
  check(doings.includes(what), `it can do ${doings.join(', ')}`);
  const first = typeof nth === 'object' ? nth.from : nth;
  check(first === 'every' || (Number.isSafeInteger(first) && first >= 1), 'nth is counted from 1');
  check(!what.startsWith('fail') || code !== undefined, 'it has no code to fail with');
  check(what !== 'delay' || (ms !== undefined && ms >= 0), 'ms must be 0 or more');
}
