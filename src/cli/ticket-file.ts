import { closeSync, fstatSync, openSync, readSync, writeFileSync } from 'node:fs';
import { MigrationError, parseTicket, type Ticket } from '../index.ts';
import type { Options } from './options.ts';
import { UsageError } from './usage-error.ts';

/** A ticket is 66 bytes; what is much longer is another file. */
const bytesMax = 1024;

/** Readable or writable by users who neither own the file nor are in its group. */
const others = 0o006;

/**
 * The ticket in `--ticket-file`, if that is given. Throws {@link UsageError}, which never repeats what the file says, if it cannot be read,
 * holds no ticket, or is open to every user of the host: then the ticket is none. Its group may read it, as service managers hand secrets on
 * so; and a pipe is nobody else's.
 */
export function readTicketFile(options: Options): Ticket | undefined {
  const file = options.text('ticket-file');
  if (file === undefined) return undefined;
  try {
    return parseTicket(readPrivate(file));
  } catch (error) {
    if (error instanceof MigrationError) throw new UsageError(`--ticket-file ${file}: ${error.message}`);
    throw error;
  }
}

/** The mode is that of what is read, whatever the name leads to a moment later. */
function readPrivate(file: string): string {
  const buffer = Buffer.alloc(bytesMax);
  let length = 0;
  let mode = 0;
  try {
    const descriptor = openSync(file, 'r');
    try {
      mode = fstatSync(descriptor).mode;
      for (let read = -1; read !== 0; length += read)
        read = readSync(descriptor, buffer, length, bytesMax - length, null);
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    throw new UsageError(`--ticket-file cannot be read: ${messageOf(error)}`);
  }
  // Windows knows no such modes: there a file is as private as its folder.
  if (process.platform !== 'win32' && (mode & others) !== 0) {
    throw new UsageError(
      `--ticket-file ${file} is open to every user of this host, so it is no secret: make a new ticket, in a file that only ` +
        'its owner can read (chmod 600)',
    );
  }
  return buffer.toString('utf8', 0, length);
}

/** Writes a ticket where only this user can read it. Throws {@link UsageError} if that cannot be, or the file is there already. */
export function writeTicketFile(file: string, ticket: Ticket): void {
  try {
    writeFileSync(file, `${ticket.reveal()}\n`, { mode: 0o600, flag: 'wx' });
  } catch (error) {
    throw new UsageError(`--out cannot be written: ${messageOf(error)}`);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
