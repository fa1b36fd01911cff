/**
 * How a claim lies in a file. One directory for each VM, one file for each claim, one line of JSON that
 * people can read and one with the line's CRC-32C:
 *
 *     web-1-8c27…/3.destination      {"format":"longhaul-claim-1","vmId":"web-1","epoch":3,"role":"destination","value":"owner"}
 *                                    5d1f03aa
 *
 * A record's bytes follow from what it claims, so that it is checked by comparing: whatever is not one of the
 * few records that may lie there (torn, damaged, renamed, another VM's) is not believed.
 */
import { createHash } from 'node:crypto';
import type { Claim, ClaimRole, ClaimValue } from '../interfaces/register.ts';
import { crc32c } from '../util/checksum.ts';
import { valuesOfRole } from './claim-arguments.ts';

/** A record's place: what its file name says. */
export type ClaimKey = Pick<Claim, 'epoch' | 'role'>;

/**
 * The name of a VM's directory. The hash keeps all ids apart, whatever they contain, also where file names
 * ignore case; what is before it is for people.
 */
export function directoryName(vmId: string): string {
  const readable = vmId.replace(/[^A-Za-z0-9_-]/g, '_').slice(0, 64);
  // Not UTF-8: it maps every lone surrogate to the same bytes, and any string is an id.
  return `${readable}-${createHash('sha256').update(vmId, 'utf16le').digest('hex')}`;
}

/** The name of a record's file. */
export function recordName(key: ClaimKey): string {
  return `${key.epoch}.${key.role}`;
}

/**
 * What a file name in a VM's directory stands for: a record, a `'leftover'` of writing one, or nothing known
 * (undefined).
 */
export function parseName(name: string): ClaimKey | 'leftover' | undefined {
  const [, digits = '', role = '', temporary] = /^([1-9]\d*)\.([a-z]+)(\.[0-9a-f-]+\.tmp)?$/.exec(name) ?? [];
  const epoch = Number(digits);
  if (!Number.isSafeInteger(epoch) || !Object.hasOwn(valuesOfRole, role)) return undefined;
  return temporary === undefined ? { epoch, role: role as ClaimRole } : 'leftover';
}

/** The bytes of a record. */
export function encodeRecord(vmId: string, key: ClaimKey, value: ClaimValue): Uint8Array {
  const { epoch, role } = key;
  const line = `${JSON.stringify({ format: 'longhaul-claim-1', vmId, epoch, role, value })}\n`;
  const checksum = crc32c(Buffer.from(line)).toString(16).padStart(8, '0');
  return Buffer.from(`${line}${checksum}\n`);
}

/** What a record says, or undefined if it cannot be believed. */
export function decodeRecord(vmId: string, key: ClaimKey, bytes: Uint8Array): ClaimValue | undefined {
  return valuesOfRole[key.role].find((value) => Buffer.compare(bytes, encodeRecord(vmId, key, value)) === 0);
}
