/**
 * Goal: a ticket is handed on by its text and by nothing else, and a mistyped one is found before anything is opened. Method: the text
 * under every change of one character, and everything by which an object is shown.
 */
import { inspect } from 'node:util';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { secretOf } from '../../src/channel/ticket.ts';
import { createTicket, MigrationError, parseTicket, Ticket } from '../../src/index.ts';

const text = createTicket().reveal();
const secret = Buffer.from(secretOf(text));

/** Everything in which a secret must not be found, in any of the forms that it has. */
function expectNoSecret(shown: string): void {
  expect(shown).not.toContain(text.slice(18, 30));
  for (const encoding of ['hex', 'base64', 'base64url'] as const) {
    expect(shown).not.toContain(secret.toString(encoding).slice(0, 12));
  }
  expect(shown).not.toContain([...secret.subarray(0, 4)].join(', '));
}

/** What an error says of a text that is no ticket. */
function refusalOf(wrong: string): MigrationError {
  try {
    parseTicket(wrong);
  } catch (error) {
    if (error instanceof MigrationError) return error;
  }
  throw new Error(`${wrong} was taken for a ticket`);
}

describe('a ticket', () => {
  it('is one of its own each time, safe in files and URLs, and comes back from its text', () => {
    expect(text).toMatch(/^longhaul-ticket-1\.[A-Za-z0-9_-]{48}$/);
    expect(encodeURIComponent(text)).toBe(text);
    expect(createTicket().reveal()).not.toBe(text);
    for (const around of [text, `${text}\n`, ` ${text}\r\n`]) expect(parseTicket(around).reveal()).toBe(text);
    expect(secretOf(text)).toEqual(secretOf(parseTicket(text)));
    expect(secretOf(text)).toHaveLength(32);
    expect(secretOf(undefined)).toHaveLength(0);
  });

  it('with one character changed, left out or added is none, and the error does not repeat it', () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:=+/ ';
    fc.assert(
      fc.property(fc.nat(text.length - 1), fc.constantFrom(...alphabet), (at, other) => {
        const [before, after] = [text.slice(0, at), text.slice(at + 1)];
        const changed = other === text[at] ? [] : [before + other + after];
        const added = at === 0 && other === ' ' ? [] : [before + other + text.slice(at)];
        for (const wrong of [...changed, ...added, before + after]) {
          const error = refusalOf(wrong);
          expect(error.code).toBe('invalid-argument');
          expectNoSecret(inspect(error, { depth: 9, showHidden: true }));
        }
      }),
      { numRuns: 500, seed: 1 },
    );
    for (const wrong of ['', 'secret', text.slice(18), text + text]) {
      expect(refusalOf(wrong).code).toBe('invalid-argument');
    }
    for (const wrong of [1, null, {}, new Uint8Array(32)]) {
      expect(() => secretOf(wrong as unknown as string)).toThrow(
        expect.objectContaining({ code: 'invalid-argument' }),
      );
    }
  });

  it('shows its secret nowhere but in reveal()', () => {
    const ticket = parseTicket(text);
    expect(ticket).toBeInstanceOf(Ticket);
    for (const shown of [
      inspect(ticket, { depth: 9, showHidden: true }),
      inspect({ options: { ticket } }, { depth: 9 }),
      JSON.stringify({ ticket }),
      String(ticket),
      Object.entries(ticket).join(),
      Reflect.ownKeys(ticket).join(),
      JSON.stringify(structuredClone({ ...ticket })),
    ]) {
      expectNoSecret(shown);
    }
  });
});
