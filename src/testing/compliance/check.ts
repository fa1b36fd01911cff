/** What the suites say when something does not hold: plain errors, so that every runner can show them. */
import type { ErrorCode } from '../../errors.ts';
import type { Chunks, Content } from '../../interfaces/content.ts';
import { joinChunks } from '../../util/chunks.ts';

/** Throws an ordinary error with the message unless the condition holds. */
export function check(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(message);
}

/** Throws unless both are the same: the same primitive, or plain data that reads the same as JSON. */
export function checkEqual(actual: unknown, expected: unknown, what: string): void {
  const [is, should] = [inWords(actual), inWords(expected)];
  check(is === should, `${what}: expected ${should}, got ${is}`);
}

/** Throws, with the place of the first difference, unless the bytes are the same. */
export function checkBytes(actual: Chunks | Uint8Array, expected: Uint8Array, what: string): void {
  const bytes = actual instanceof Uint8Array ? actual : joinChunks(actual);
  checkEqual(bytes.byteLength, expected.byteLength, `${what}: its length in bytes`);
  if (asBuffer(bytes).equals(asBuffer(expected))) return;
  const at = expected.findIndex((byte, index) => byte !== bytes[index]);
  throw new Error(`${what}: byte ${at} is ${bytes[at]}, expected ${expected[at]}`);
}

/**
 * Throws unless the promise rejects with a `MigrationError` of the code, or of one of them. Resolves to the
 * error.
 */
export async function checkRejects(
  promise: Promise<unknown>,
  codes: ErrorCode | readonly ErrorCode[],
  what: string,
): Promise<Error> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => ({ error }),
  );
  const wanted = [codes].flat().join(' or ');
  check(outcome !== undefined, `${what}: it resolved, and should have rejected with ${wanted}`);
  const error = outcome.error as Partial<{ name: string; code: ErrorCode; message: string }> | undefined;
  const matches = error?.name === 'MigrationError' && error.code !== undefined && codes.includes(error.code);
  if (!matches) {
    const got = `${error?.name ?? 'a value'} ${error?.code ?? ''}: ${error?.message ?? String(error)}`;
    throw new Error(`${what}: expected a MigrationError with ${wanted}, got ${got}`, { cause: error });
  }
  return outcome.error as Error;
}

/** A promise that is watched. */
export interface Watched<T> {
  readonly promise: Promise<T>;
  /** Whether it resolved or rejected. */
  readonly settled: boolean;
}

/**
 * Watches whether a promise settles. Its rejection counts as handled: whoever needs it awaits the promise.
 */
export function watch<T>(promise: Promise<T>): Watched<T> {
  let settled = false;
  const note = () => {
    settled = true;
  };
  promise.then(note, note);
  return {
    promise,
    get settled() {
      return settled;
    },
  };
}

/** The bytes of a content of `length` bytes, those of zeros too. */
export function contentBytes(content: Content, length: number): Uint8Array {
  return content === 'zero' ? new Uint8Array(length) : joinChunks(content);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function inWords(value: unknown): string {
  if (value === undefined) return 'undefined';
  return typeof value === 'object' ? JSON.stringify(value) : String(value);
}
