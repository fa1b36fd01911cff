import { MigrationError } from '../errors.ts';
import { crc32c } from '../util/checksum.ts';
import { nodeEnvironment } from '../util/node-environment.ts';

/** 256 bits: nobody guesses it, also not who has a proof at home and all the time in the world. */
const secretBytes = 32;

const prefix = 'longhaul-ticket-1.';

let ticketOf: (secret: Uint8Array) => Ticket;
let secretIn: (ticket: Ticket) => Uint8Array;

/**
 * The secret of one migration, which whoever orders it hands to both ends. They prove to each other, on each connection, that they have it,
 * without saying it. It does not encrypt what they send: that is what TLS is for. Nothing that shows objects (`util.inspect`, JSON, a
 * template) shows the secret; {@link Ticket.reveal} alone does. Made by {@link createTicket} and {@link parseTicket}.
 */
export class Ticket {
  readonly #secret: Uint8Array;

  static {
    ticketOf = (secret) => new Ticket(secret);
    secretIn = (ticket) => ticket.#secret;
  }

  private constructor(secret: Uint8Array) {
    this.#secret = secret;
  }

  /**
   * Its text, to be handed to the other end, or to a file: `longhaul-ticket-1.` and 48 characters, safe in files, URLs and shells. Whoever
   * has it can be either end of the migration.
   */
  reveal(): string {
    const bytes = Buffer.alloc(secretBytes + 4);
    bytes.set(this.#secret);
    bytes.writeUInt32BE(crc32c(this.#secret), secretBytes);
    return prefix + bytes.toString('base64url');
  }
}

/** A new ticket, of 256 random bits. One for each migration; what asks for its decision later needs the same. */
export function createTicket(): Ticket {
  return ticketOf(nodeEnvironment.randomBytes(secretBytes));
}

/**
 * The ticket whose text this is; white space around it does not count. Throws `invalid-argument` if it is none, or a character is missing
 * or wrong; the error does not repeat the text.
 */
export function parseTicket(text: string): Ticket {
  const trimmed = text.trim();
  const encoded = trimmed.startsWith(prefix) ? trimmed.slice(prefix.length) : '';
  const bytes = /^[A-Za-z0-9_-]{48}$/.test(encoded) ? Buffer.from(encoded, 'base64url') : undefined;
  const secret = bytes?.subarray(0, secretBytes);
  if (bytes === undefined || secret === undefined || bytes.readUInt32BE(secretBytes) !== crc32c(secret)) {
    throw new MigrationError('invalid-argument', 'this is no ticket: it is not whole, or was mistyped');
  }
  return ticketOf(new Uint8Array(secret));
}

/** What proofs are made with. Without a ticket: nothing, with which anybody can make them. Throws as {@link parseTicket} does. */
export function secretOf(ticket: Ticket | string | undefined): Uint8Array {
  if (ticket === undefined) return new Uint8Array(0);
  if (ticket instanceof Ticket) return secretIn(ticket);
  if (typeof ticket === 'string') return secretIn(parseTicket(ticket));
  throw new MigrationError('invalid-argument', 'ticket must be a Ticket, or the text of one');
}
