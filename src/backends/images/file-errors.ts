import { type ErrorCode, MigrationError, messageOf } from '../../errors.ts';

/** What a file system says when there is no room, or no more for this user, or in this file. */
const FULL = ['ENOSPC', 'EDQUOT', 'EFBIG'];

/** The name of a system's error, such as `ENOENT`. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined;
}

/** What a file system threw, under `code`; as `disk-full` if it had no room. */
export function fileError(error: unknown, code: ErrorCode, what: string): MigrationError {
  if (error instanceof MigrationError) return error;
  const full = code === 'disk-write' && FULL.includes(errnoOf(error) ?? '');
  return new MigrationError(full ? 'disk-full' : code, `${what}: ${messageOf(error)}`, { cause: error });
}
