import { MigrationError } from '../errors.ts';

/** The end of a `switch` over a union: a compile-time error if a case is missing. */
export function unreachable(value: never): never {
  throw new MigrationError('internal', `unreachable: ${String(value)}`);
}
