import { MigrationError } from '../errors.ts';

/** States what must hold. If it does not, the library has a bug: the migration fails with `internal`, the process goes on. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new MigrationError('internal', message);
}

/** The end of a `switch` over a union: a compile-time error if a case is missing. */
export function unreachable(value: never): never {
  throw new MigrationError('internal', `unreachable: ${String(value)}`);
}
