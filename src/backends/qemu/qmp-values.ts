import { MigrationError } from '../../errors.ts';
import { isQmpObject, type QmpObject } from './qmp.ts';

/** An answer's object; throws `protocol`, naming `what` was looked for, if it is none. */
export function objectOf(value: unknown, what: string): QmpObject {
  if (!isQmpObject(value)) throw unexpected(what, 'an object');
  return value;
}

/** An answer's list of objects; throws `protocol` if it is none. */
export function objectsOf(value: unknown, what: string): readonly QmpObject[] {
  if (!Array.isArray(value)) throw unexpected(what, 'a list');
  return value.map((item: unknown) => objectOf(item, what));
}

/** An answer's text; throws `protocol` if it is none. */
export function stringOf(value: unknown, what: string): string {
  if (typeof value !== 'string') throw unexpected(what, 'a string');
  return value;
}

/** An answer's whole number, 0 or more; throws `protocol` if it is none. */
export function numberOf(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw unexpected(what, 'a size');
  return value;
}

/** A text that need not be there, and is not when it is empty. */
export function optionalString(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function unexpected(what: string, kind: string): MigrationError {
  return new MigrationError('protocol', `QMP: ${what} is not ${kind}`);
}
