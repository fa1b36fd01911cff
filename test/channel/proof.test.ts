/**
 * Goal: whoever does not have the ticket is believed nothing, and whoever stands on the way can end a connection, and no more: not use it for
 * something else, not use again what was said on another one, not lower the version. Method: the two ends of the handshake over a
 * simulated link in virtual time, and somebody who hears all of it, changes it, and makes the checksums right again.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ByteReader } from '../../src/channel/byte-reader.ts';
import {
  type ChallengeOptions,
  challenge,
  type DialOptions,
  dial,
  type ProvedConnection,
  readGreeting,
  welcome,
} from '../../src/channel/handshake.ts';
import { type Connection, type MemoryLink, memoryLink } from '../../src/index.ts';
import { crc32c } from '../../src/util/checksum.ts';
import { joinChunks } from '../../src/util/chunks.ts';
import { hmacSha256 } from '../../src/util/proof.ts';
import {
  answerBytes,
  challengeBytes,
  decodeAnswer,
  encodeAnswer,
  greetingHeadBytes,
  type Purpose,
  proofBytes,
} from '../../src/wire/greeting.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';

const secret = new Uint8Array(32).fill(5);
const limitMs = 1000;

/** What is said in the order in which it is said; the last is the acceptor's verdict. */
type Said = 'greeting' | 'answer' | 'challenge' | 'proof' | 'verdict';
/** Changes what is on its way. */
type Change = (said: Said, bytes: Uint8Array) => Uint8Array;

interface Stage {
  readonly environment: VirtualEnvironment;
  /** From the dialler to whoever is in the middle. */
  readonly near: MemoryLink;
  /** From there to the acceptor. */
  readonly far: MemoryLink;
}

let stages = 0;

/** Each has nonces of its own. */
function stage(): Stage {
  const environment = createVirtualEnvironment(++stages);
  const link = () => memoryLink({ rttMs: 2, environment });
  return { environment, near: link(), far: link() };
}

function dialled({ environment, near }: Stage, changes: Partial<DialOptions> = {}) {
  return dial(near.source, {
    purpose: 'data',
    lane: 1,
    session: new Uint8Array(16).fill(7),
    vmId: 'vm-1',
    secret,
    environment,
    limitMs,
    signal: undefined,
    ...changes,
  });
}

/** Accepts one connection and lets it in if it proves itself. */
async function accepted(
  { environment, far }: Stage,
  changes: Partial<ChallengeOptions> = {},
): Promise<ProvedConnection> {
  const options = { secret, environment, limitMs, ...changes };
  const connection = await far.destination.accept();
  const greeting = await readGreeting(connection, environment, limitMs, options.versions);
  const proved = await challenge(greeting, options);
  await welcome(proved);
  return proved;
}

const lengthOf = { answer: answerBytes, challenge: challengeBytes, proof: proofBytes, verdict: answerBytes };

async function readSaid(said: Said, reader: ByteReader): Promise<Uint8Array> {
  if (said !== 'greeting') return (await reader.readExactly(lengthOf[said])).slice();
  const head = (await reader.readExactly(greetingHeadBytes)).slice();
  const vmIdBytes = new DataView(head.buffer).getUint16(32);
  return Uint8Array.from([...head, ...(await reader.readExactly(32 + vmIdBytes + 4))]);
}

const fromDialler: readonly Said[] = ['greeting', 'proof'];
const fromAcceptor: readonly Said[] = ['answer', 'challenge', 'verdict'];

/** Passes on one connection, as `change` has it, and resolves to what was heard of it. */
async function relay({ near, far }: Stage, change: Change = (_, bytes) => bytes) {
  const heard = new Map<Said, Uint8Array>();
  const [dialler, acceptor] = await Promise.all([near.destination.accept(), far.source.open()]);
  const pass = async (from: Connection, to: Connection, parts: readonly Said[]) => {
    const reader = new ByteReader(from);
    try {
      for (const said of parts) {
        const bytes = await readSaid(said, reader);
        heard.set(said, bytes);
        await to.send([change(said, bytes.slice())]);
      }
    } catch {
      void to.close();
    }
  };
  await Promise.all([pass(dialler, acceptor, fromDialler), pass(acceptor, dialler, fromAcceptor)]);
  return heard;
}

/** What became of the two ends, and what the one in the middle heard. */
async function through(
  change?: Change,
  options: { dialler?: Partial<DialOptions>; acceptor?: Partial<ChallengeOptions> } = {},
) {
  const world = stage();
  const all = Promise.all([
    outcome(dialled(world, options.dialler)),
    outcome(accepted(world, options.acceptor)),
    relay(world, change),
  ]);
  const [dialler, acceptor, heard] = await world.environment.run(all);
  return { dialler, acceptor, heard };
}

/** `let in`, with the version, or the error's code. */
async function outcome(end: Promise<{ readonly version: number }>): Promise<string> {
  try {
    return `let in, version ${(await end).version}`;
  } catch (error) {
    return (error as { code: string }).code;
  }
}

/** Makes the checksums right again: whoever changes bytes can do that too. */
function summed(said: Said, bytes: Uint8Array): Uint8Array {
  const sum = (from: number, to: number) =>
    new DataView(bytes.buffer).setUint32(to, crc32c(bytes.subarray(from, to)));
  if (said === 'greeting') sum(0, greetingHeadBytes - 4);
  if (said === 'greeting') sum(greetingHeadBytes, bytes.byteLength - 4);
  if (said === 'answer' || said === 'challenge' || said === 'verdict') sum(0, bytes.byteLength - 4);
  return bytes;
}

/** Sets a 16-bit number in one of the parts. */
function setting(part: Said, at: number, value: number): Change {
  return (said, bytes) => {
    if (said !== part) return bytes;
    new DataView(bytes.buffer).setUint16(at, value);
    return summed(said, bytes);
  };
}

describe('two ends with the same secret', () => {
  it('let each other in, also when every byte comes alone', async () => {
    const untouched = await through();
    expect([untouched.dialler, untouched.acceptor]).toEqual(['let in, version 1', 'let in, version 1']);
    expect([...untouched.heard.keys()].sort()).toEqual([...fromDialler, ...fromAcceptor].sort());
  });

  it('make the proofs that the documentation describes', async () => {
    const { heard } = await through();
    const of = (said: Said) => heard.get(said) ?? new Uint8Array(0);
    const label = (text: string) => new TextEncoder().encode(text);
    const before = [of('greeting'), of('answer')];
    expect(of('challenge').subarray(36, 68)).toEqual(
      hmacSha256(secret, [label('longhaul acceptor'), ...before, of('challenge').subarray(0, 36)]),
    );
    expect(of('proof')).toEqual(hmacSha256(secret, [label('longhaul dialler '), ...before, of('challenge')]));
  });

  it('without a secret let each other in too: nothing is proved then', async () => {
    const none = { secret: undefined };
    const { dialler, acceptor } = await through(undefined, { dialler: none, acceptor: none });
    expect([dialler, acceptor]).toEqual(['let in, version 1', 'let in, version 1']);
  });

  it.each<[string, Uint8Array | undefined, Uint8Array | undefined]>([
    ['the dialler has another one', new Uint8Array(32).fill(6), secret],
    ['the acceptor has another one', secret, new Uint8Array(32).fill(6)],
    ['the dialler has none', undefined, secret],
    ['the acceptor has none', secret, undefined],
  ])('do not when %s, and the dialler says no more than its greeting', async (_, one, other) => {
    const { dialler, acceptor, heard } = await through(undefined, {
      dialler: { secret: one },
      acceptor: { secret: other },
    });
    expect(dialler).toBe('ticket-mismatch');
    expect(acceptor).toBe('connection-lost');
    expect(heard.has('proof')).toBe(false);
  });
});

describe('whoever is on the way', () => {
  it('and changes any bit of what proves or is proved lets nobody in', async () => {
    const part = fc.constantFrom<Said>('greeting', 'answer', 'challenge', 'proof');
    await fc.assert(
      fc.asyncProperty(part, fc.nat(), fc.nat(7), fc.boolean(), async (changed, place, bit, sums) => {
        const { dialler, acceptor } = await through((said, bytes) => {
          if (said !== changed) return bytes;
          const at = place % bytes.byteLength;
          bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
          // A change of the checksum itself is undone by making it right.
          const inSum =
            said !== 'proof' && (at >= bytes.byteLength - 4 || (said === 'greeting' && at >= 36 && at < 40));
          return sums && !inSum ? summed(said, bytes) : bytes;
        });
        expect(dialler).not.toContain('let in');
        expect(acceptor).not.toContain('let in');
      }),
      { numRuns: 400, seed: 1 },
    );
  });

  const session = (said: Said, bytes: Uint8Array): Uint8Array => {
    if (said === 'greeting') bytes.fill(8, 16, 32);
    // So that the dialler finds its own repeated.
    if (said === 'answer') bytes.fill(7, 12, 28);
    return summed(said, bytes);
  };
  const purpose = (said: Said, bytes: Uint8Array): Uint8Array => {
    if (said !== 'greeting') return bytes;
    bytes[12] = 4;
    bytes.fill(0, 14, 16);
    return summed(said, bytes);
  };
  const vm = (said: Said, bytes: Uint8Array): Uint8Array => {
    if (said !== 'greeting') return bytes;
    bytes.set(new TextEncoder().encode('vm-2'), 72);
    return summed(said, bytes);
  };

  it.each<[string, Change]>([
    ['another lane', setting('greeting', 14, 2)],
    ['another session', session],
    ['another purpose', purpose],
    ['another VM', vm],
  ])('makes no connection for %s of it', async (_, change) => {
    const { dialler, acceptor, heard } = await through(change);
    expect(dialler).toBe('ticket-mismatch');
    expect(acceptor).toBe('connection-lost');
    expect(heard.has('proof')).toBe(false);
  });

  /** Whoever does not wait for the dialler's consent, and has a proof at hand all the same. */
  it.each<[string, Partial<DialOptions>]>([
    ['the same greeting', {}],
    ['another lane', { lane: 2 }],
    ['another session', { session: new Uint8Array(16).fill(9) }],
    ['another purpose', { purpose: 'resume' as Purpose, lane: 0 }],
    ['another VM', { vmId: 'vm-2' }],
  ])('cannot use a proof again, on a connection with %s', async (_, changes) => {
    const { heard } = await through();
    // The greeting of a dialler that makes what is needed; what it would say after that does not come through.
    const world = stage();
    const proof = heard.get('proof') ?? new Uint8Array(0);
    const recorded = heard.get('greeting') ?? new Uint8Array(0);
    const greeting = Object.keys(changes).length === 0 ? recorded : await greetingOf(changes);
    const acceptor = outcome(accepted(world));
    const connection = await world.environment.run(world.far.source.open());
    const reader = new ByteReader(connection);
    await connection.send([greeting]);
    await world.environment.run(reader.readExactly(answerBytes + challengeBytes));
    await connection.send([proof]);
    const verdict = await world.environment.run(reader.readExactly(answerBytes));
    expect(decodeAnswer(verdict).status).toBe('refused');
    connection.abort();
    expect(await world.environment.run(acceptor)).toBe('ticket-mismatch');
  });

  it('cannot play a whole connection again, step by step or at once', async () => {
    const { heard } = await through();
    const parts = fromDialler.map((said) => heard.get(said) ?? new Uint8Array(0));
    for (const [chunks, code] of [
      [parts, 'ticket-mismatch'],
      [[joinChunks(parts)], 'protocol'],
    ] as const) {
      const world = stage();
      const acceptor = outcome(accepted(world));
      const connection = await world.environment.run(world.far.source.open());
      await connection.send(chunks);
      expect(await world.environment.run(acceptor)).toBe(code);
      connection.abort();
    }
  });

  it('cannot hand the acceptor its own proof', async () => {
    const world = stage();
    const acceptor = outcome(accepted(world));
    const connection = await world.environment.run(world.far.source.open());
    const reader = new ByteReader(connection);
    await connection.send([await greetingOf({})]);
    const answered = await world.environment.run(reader.readExactly(answerBytes + challengeBytes));
    await connection.send([answered.slice(answerBytes + 36, answerBytes + 68)]);
    const verdict = await world.environment.run(reader.readExactly(answerBytes));
    expect(decodeAnswer(verdict).status).toBe('refused');
    connection.abort();
    expect(await world.environment.run(acceptor)).toBe('ticket-mismatch');
  });

  it('cannot be the acceptor: with its old challenge, with none, or with the dialler\u2019s own words', async () => {
    const { heard } = await through();
    const of = (said: Said) => heard.get(said) ?? new Uint8Array(0);
    const session = new Uint8Array(16).fill(7);
    const letIn = encodeAnswer({ version: 1, status: 'welcome', session });
    for (const [answers, code] of [
      [[of('answer'), of('challenge')], 'ticket-mismatch'],
      [[letIn], 'protocol'],
      [[of('greeting')], 'protocol'],
      [[of('answer'), of('greeting').slice(0, challengeBytes)], 'protocol'],
    ] as const) {
      const world = stage();
      const dialler = outcome(dialled(world));
      const connection = await world.environment.run(world.near.destination.accept());
      await connection.send(answers);
      expect(await world.environment.run(dialler)).toBe(code);
      connection.abort();
    }
  });

  it('can end a connection by a word that nobody needs to prove, and not more', async () => {
    const status =
      (value: number): Change =>
      (said, bytes) => {
        if (said === 'answer') bytes[10] = value;
        return summed(said, bytes);
      };
    for (const [value, code] of [
      [1, 'version-mismatch'],
      [2, 'refused'],
    ] as const) {
      const { dialler, acceptor } = await through(status(value));
      expect([dialler, acceptor]).toEqual([code, 'connection-lost']);
    }
  });
});

describe('the version', () => {
  const range = (versionMin: number, versionMax: number) => ({ versions: { versionMin, versionMax } });
  const both = { dialler: range(1, 3), acceptor: range(1, 4) };

  it('is the highest in common', async () => {
    const { dialler, acceptor } = await through(undefined, both);
    expect([dialler, acceptor]).toEqual(['let in, version 3', 'let in, version 3']);
  });

  it('is none where there is none in common', async () => {
    const ends = { dialler: range(1, 3), acceptor: range(4, 9) };
    const { dialler, acceptor } = await through(undefined, ends);
    expect([dialler, acceptor]).toEqual(['version-mismatch', 'version-mismatch']);
  });

  const changes = (...list: readonly Change[]): Change => {
    return (said, bytes) => list.reduce((changed, change) => change(said, changed), bytes);
  };
  const dialled = setting('greeting', 10, 1);
  const chosen = setting('answer', 8, 1);
  const spoken = setting('challenge', 34, 1);

  it.each<[string, Change, string]>([
    ['what the dialler speaks', dialled, 'version-mismatch'],
    ['what the acceptor chose', chosen, 'version-mismatch'],
    ['what the acceptor speaks', spoken, 'version-mismatch'],
    ['what the dialler and the acceptor speak', changes(dialled, spoken), 'ticket-mismatch'],
    ['what the acceptor speaks and chose', changes(chosen, spoken), 'ticket-mismatch'],
    ['all of it', changes(dialled, chosen, spoken), 'ticket-mismatch'],
  ])('is not lowered by a change of %s', async (_, change, code) => {
    const { dialler, acceptor, heard } = await through(change, both);
    expect(dialler).toBe(code);
    expect(acceptor).toBe('connection-lost');
    expect(heard.has('proof')).toBe(false);
  });
});

/** What a dialler with these options greets with. */
async function greetingOf(changes: Partial<DialOptions>): Promise<Uint8Array> {
  const world = stage();
  const dialler = outcome(dialled(world, changes));
  const connection = await world.environment.run(world.near.destination.accept());
  const greeting = await world.environment.run(readSaid('greeting', new ByteReader(connection)));
  connection.abort();
  await world.environment.run(dialler);
  return greeting;
}
