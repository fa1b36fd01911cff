import { type ErrorCode, MigrationError, type MigrationErrorDetails, messageOf } from '../errors.ts';

/**
 * A value as it goes from one thread to another: what it holds of errors is told apart, the rest is copied as
 * it is.
 */
export type Packed = unknown;

/** An error as plain data: copied by itself it would lose its class, its code, and who owns the VM. */
interface PackedError {
  readonly ours: boolean;
  readonly name: string;
  readonly message: string;
  readonly stack: string | undefined;
  /** What it says beside that, as Node's errors do: `code`, `syscall` and the like. */
  readonly fields: Readonly<Record<string, unknown>>;
  readonly cause: Packed;
}

/** No value of ours has a member of this name. */
const errorKey = '$error';
/** Causes that are followed at most: they may lead back to themselves. */
const causesMax = 8;

/**
 * A value of plain objects, arrays and errors, so that it can be posted. What cannot be copied goes as its
 * text.
 */
export function pack(value: unknown): Packed {
  if (value instanceof Error) return { [errorKey]: packError(value, causesMax) };
  if (Array.isArray(value)) return value.map(pack);
  if (isPlain(value)) return mapValues(value, pack);
  return copyable(value);
}

/** What {@link pack} was given; a `MigrationError` is one again. */
export function unpack(packed: Packed): unknown {
  if (Array.isArray(packed)) return packed.map(unpack);
  if (!isPlain(packed)) return packed;
  if (errorKey in packed) return unpackError(packed[errorKey] as PackedError);
  return mapValues(packed, unpack);
}

function packError(error: Error, causesLeft: number): PackedError {
  const { name, stack, cause } = error;
  const simple = ([, value]: [string, unknown]) => ['string', 'number', 'boolean'].includes(typeof value);
  return {
    ours: error instanceof MigrationError,
    name: String(name),
    message: messageOf(error),
    stack: stack === undefined ? undefined : String(stack),
    fields: Object.fromEntries(Object.entries(error).filter(simple)),
    cause: packCause(cause, causesLeft - 1),
  };
}

function packCause(cause: unknown, causesLeft: number): Packed {
  if (!(cause instanceof Error)) return copyable(cause);
  return causesLeft === 0 ? undefined : { [errorKey]: packError(cause, causesLeft) };
}

function unpackError({ ours, name, message, stack, fields, cause }: PackedError): Error {
  // A cause that is no error is whatever it was.
  const unpacked = isPlain(cause) && errorKey in cause ? unpack(cause) : cause;
  const error = ours
    ? new MigrationError(fields.code as ErrorCode, message, {
        ...(fields as MigrationErrorDetails),
        cause: unpacked,
      })
    : Object.assign(new Error(message, unpacked === undefined ? undefined : { cause: unpacked }), fields);
  // Where it was thrown, not where it was put together again.
  for (const [key, value] of Object.entries({ name, stack })) {
    Object.defineProperty(error, key, { value, writable: true, configurable: true, enumerable: false });
  }
  return error;
}

function isPlain(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

function mapValues(value: object, map: (each: unknown) => unknown): Readonly<Record<string, unknown>> {
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, map(each)]));
}

function copyable(value: unknown): unknown {
  if (value === null || !['object', 'function', 'symbol'].includes(typeof value)) return value;
  try {
    return structuredClone(value);
  } catch {
    return messageOf(value);
  }
}
