import { type ErrorCode, errorCodes, MigrationError } from '../errors.ts';

/** A code that the peer named, if it is known here. */
export function codeOfPeer(code: string): ErrorCode {
  return errorCodes.find((candidate) => candidate === code) ?? 'peer-failed';
}

/** What the destination said of its failure. */
export function peerFailed(code: string, reason: string): MigrationError {
  return new MigrationError(codeOfPeer(code), `the destination failed: ${reason}`);
}
