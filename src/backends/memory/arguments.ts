import { MigrationError } from '../../errors.ts';

/** Throws `invalid-argument` with the message unless the condition holds. */
export function requireArgument(condition: boolean, message: string): asserts condition {
  if (!condition) throw new MigrationError('invalid-argument', message);
}

/**
 * Throws `invalid-argument` unless `offset` and `length` are whole numbers and the range lies within
 * `sizeBytes`.
 */
export function requireRange(what: string, offset: number, length: number, sizeBytes: number): void {
  const whole = Number.isSafeInteger(offset) && Number.isSafeInteger(length);
  requireArgument(
    whole && offset >= 0 && length >= 0 && offset + length <= sizeBytes,
    `${what}: ${length} bytes at ${offset} do not lie within its ${sizeBytes} bytes`,
  );
}

/** Whether `value` is a power of two from `min` to `max`. */
export function isPowerOfTwo(value: number, min: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max && Number.isInteger(Math.log2(value));
}
