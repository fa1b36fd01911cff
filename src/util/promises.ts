import { MigrationError } from '../errors.ts';
import type { Environment } from './environment.ts';
import { onAbort } from './on-abort.ts';

/** A promise and the means to settle it. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(error: unknown): void;
}

/** A new deferred. Its rejection counts as handled: whoever needs it awaits the promise. */
export function deferred<T>(): Deferred<T> {
  let resolve!: (value: T) => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<T>((res, rej) => {
    resolve = res;
    reject = rej;
  });
  promise.catch(() => {});
  return { promise, resolve, reject };
}

/** A condition that many may wait for: `wait()` resolves at the next `notify()`; `fail()` rejects all waiters, present and to come. */
export class Signalled {
  /** There only while somebody waits: most notifications find nobody, and are to cost nothing. */
  #next: Deferred<void> | undefined;
  #failure: { readonly error: unknown } | undefined;

  /** Resolves at the next `notify()`. Check the condition, then wait, in a loop. */
  wait(): Promise<void> {
    this.#next ??= deferred();
    if (this.#failure !== undefined) this.#next.reject(this.#failure.error);
    return this.#next.promise;
  }

  notify(): void {
    if (this.#failure !== undefined) return;
    this.#next?.resolve();
    this.#next = undefined;
  }

  fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { error };
    this.#next?.reject(error);
  }
}

/** Why a signal was aborted, as a {@link MigrationError}: its own reason if that is one, else `aborted`. */
export function abortError(signal: AbortSignal): MigrationError {
  const reason: unknown = signal.reason;
  if (reason instanceof MigrationError) return reason;
  const detail = reason instanceof Error && reason.name !== 'AbortError' ? `: ${reason.message}` : '';
  return new MigrationError('aborted', `aborted by the caller${detail}`, { cause: reason });
}

/** Throws {@link abortError} if the signal is aborted. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/**
 * `promise`, or a rejection as soon as the signal is aborted. What arrives after that goes to `late` (to be released). The listener is
 * taken off either way.
 */
export function raceAbort<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
  late?: (value: T) => void,
): Promise<T> {
  if (signal === undefined) return promise;
  return new Promise<T>((resolve, reject) => {
    let given = false;
    const giveUp = (): void => {
      given = true;
      reject(abortError(signal));
    };
    const takeBack = signal.aborted ? () => {} : onAbort(signal, giveUp);
    if (signal.aborted) giveUp();
    promise.then(
      (value) => {
        takeBack();
        if (given) late?.(value);
        else resolve(value);
      },
      (error: unknown) => {
        takeBack();
        reject(error);
      },
    );
  });
}

/** `promise`, or a rejection with `error()` once `limitMs` have passed. The promise itself goes on. */
export function withTimeout<T>(
  environment: Environment,
  limitMs: number,
  promise: Promise<T>,
  error: () => MigrationError,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const cancel = environment.setTimer(limitMs, () => reject(error()));
    promise.then(resolve, reject).finally(cancel);
  });
}

/** Resolves after `delayMs`; rejects when the signal is aborted. */
export function delay(environment: Environment, delayMs: number, signal?: AbortSignal): Promise<void> {
  return new Promise<void>((resolve, reject) => {
    if (signal?.aborted) {
      reject(abortError(signal));
      return;
    }
    const takeBack =
      signal === undefined
        ? () => {}
        : onAbort(signal, () => {
            cancel();
            reject(abortError(signal));
          });
    const cancel = environment.setTimer(delayMs, () => {
      takeBack();
      resolve();
    });
  });
}
