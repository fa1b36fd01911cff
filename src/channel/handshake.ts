/**
 * How the two ends of a connection come to believe each other, before either takes the other's word or memory is set aside for it.
 *
 * ```
 * dialler                                     acceptor
 *   │── greeting: versions, what for, nonce ───►│ nothing is believed yet
 *   │◄─ challenge: version, versions, nonce, ───│
 *   │              proof that it has the secret │
 *   │── proof that it has the secret ──────────►│ only now
 *   │◄─ welcome, or refused ────────────────────│
 * ```
 *
 * A proof is an HMAC with the migration's secret over a label, which says whose it is, and every byte that was said on this connection
 * before it. Both nonces are among them, so that no proof is of use on another connection or another day; so are the purpose, the lane, the
 * session and the VM, which nobody on the way can change; and so are both ranges of versions, so that a lower version than the highest in
 * common is found out. The acceptor proves itself first: a dialler with a wrong address or ticket says no more than its greeting.
 *
 * Without a ticket the secret is empty. Then everybody can prove it, and the same steps show no more than that both ends speak the same
 * protocol.
 */
import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport } from '../interfaces/transport.ts';
import { type Chunks, joinChunks } from '../util/chunks.ts';
import { onAbort } from '../util/on-abort.ts';
import { raceAbort, withTimeout } from '../util/promises.ts';
import { equalInConstantTime, hmacSha256 } from '../util/proof.ts';
import {
  type Answer,
  answerBytes,
  challengeBytes,
  challengeProvenBytes,
  chooseVersion,
  decodeAnswer,
  decodeChallenge,
  decodeGreetingHead,
  decodeGreetingTail,
  encodeAnswer,
  encodeChallenge,
  encodeGreeting,
  type Greeting,
  greetingHeadBytes,
  nonceBytes,
  type Purpose,
  proofBytes,
  type VersionRange,
  versions,
} from '../wire/greeting.ts';
import { ByteReader } from './byte-reader.ts';

/** A connection whose two ends have greeted each other. */
export interface GreetedConnection {
  readonly connection: Connection;
  readonly reader: ByteReader;
  /** From the greeting to the challenge; 0 at the end that was greeted. */
  readonly roundTripMs: number;
}

/** A connection whose greeting has arrived, and of which nothing is proved. */
export interface GreetingConnection extends GreetedConnection {
  readonly greeting: Greeting;
  /** The greeting as it came. */
  readonly bytes: Uint8Array;
}

/** A connection whose dialler has proved itself, and that waits for {@link welcome} or {@link refuse}. */
export interface ProvedConnection extends GreetingConnection {
  /** In which both ends speak. */
  readonly version: number;
}

/** What an end has to be believed by, and in what it speaks. */
export interface Credentials {
  /** The ticket's. Default: empty, which proves nothing. */
  readonly secret?: Uint8Array | undefined;
  /** Default: what this code speaks. */
  readonly versions?: VersionRange | undefined;
}

export interface DialOptions extends Credentials {
  readonly purpose: Purpose;
  readonly lane: number;
  readonly session: Uint8Array;
  /** Which VM the connection is for. */
  readonly vmId: string;
  readonly environment: Environment;
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
  /** There is a connection, of which nothing is known; how long that took, in ms: a round trip over TCP, three with TLS. */
  readonly onOpened?: (ms: number) => void;
  /** Asks to be let in no sooner than this has resolved. Default: at once. */
  readonly due?: Promise<unknown>;
}

/** How long a peer may take to end a connection that was ended here, before it is dropped: several round trips of any real link. */
const endMsMax = 1000;

function timeout(label: string): MigrationError {
  return new MigrationError('timeout', `${label}: no answer to the greeting in time`);
}

/**
 * A signal that is aborted with `parent`, and can be aborted alone: for what is given up on while its caller goes on. To be
 * unlinked when it is over.
 */
export function childOf(parent: AbortSignal | undefined): {
  readonly signal: AbortSignal;
  abort(reason: unknown): void;
  unlink(): void;
} {
  const child = new AbortController();
  const follow = () => child.abort(parent?.reason);
  if (parent?.aborted) follow();
  const unlink = parent === undefined || parent.aborted ? () => {} : onAbort(parent, follow);
  return { signal: child.signal, abort: (reason) => child.abort(reason), unlink };
}

/** Opens a connection over one path. When it is given up on, the transport is told so, and what it opens all the same is dropped. */
async function openOver(path: number, transport: Transport, options: DialOptions): Promise<Connection> {
  const { environment, limitMs } = options;
  const attempt = childOf(options.signal);
  const { signal } = attempt;
  try {
    const opened = raceAbort(transport.open({ signal, path }), signal, (late) => late.abort());
    return await withTimeout(environment, limitMs, opened, () => {
      return new MigrationError('timeout', 'no connection in time');
    });
  } catch (error) {
    attempt.abort(error);
    throw error;
  } finally {
    attempt.unlink();
  }
}

/** Opens a connection over the lane's own path or, where that is down, over the next: a host that can be reached at all is reached. */
async function open(transport: Transport, options: DialOptions): Promise<Connection> {
  for (let tried = 0; ; tried++) {
    try {
      return await openOver((options.lane + tried) % transport.paths, transport, options);
    } catch (error) {
      if (options.signal?.aborted || tried + 1 >= transport.paths) throw error;
    }
  }
}

const labels = {
  acceptor: new TextEncoder().encode('longhaul acceptor'),
  dialler: new TextEncoder().encode('longhaul dialler '),
};
const nothing = new Uint8Array(0);

/** That its maker, who is the dialler or the acceptor, has the secret, and sent or received all that was said. */
function prove(
  { secret = nothing }: Credentials,
  end: 'dialler' | 'acceptor',
  said: readonly Uint8Array[],
): Uint8Array {
  return hmacSha256(secret, [labels[end], ...said]);
}

/**
 * Opens a connection, greets, and proves itself to an acceptor that has done so. Rejects with `connect-failed`, `timeout`,
 * `version-mismatch`, `ticket-mismatch`, `refused`, `protocol` or `connection-lost`; then the connection is gone.
 */
export async function dial(transport: Transport, options: DialOptions): Promise<ProvedDial> {
  const { environment, limitMs, signal } = options;
  const startMs = environment.now();
  const connection = await open(transport, options);
  options.onOpened?.(environment.now() - startMs);
  try {
    const reader = new ByteReader(connection);
    const proving = raceAbort(proveTo(connection, reader, options), signal);
    const proved = await withTimeout(environment, limitMs, proving, () => timeout(connection.label));
    return { connection, reader, ...proved };
  } catch (error) {
    connection.abort(error);
    throw error;
  }
}

/** A connection that was let in. */
export type ProvedDial = GreetedConnection & Pick<ProvedConnection, 'version'>;

async function proveTo(
  connection: Connection,
  reader: ByteReader,
  options: DialOptions,
): Promise<Pick<ProvedDial, 'roundTripMs' | 'version'>> {
  const { environment, purpose, lane, session, vmId, versions: own = versions } = options;
  const { label } = connection;
  const start = environment.now();
  const nonce = environment.randomBytes(nonceBytes);
  const greeting = encodeGreeting({ ...own, purpose, lane, session, nonce, vmId });
  await connection.send([greeting]);
  const said = await reader.readExactly(answerBytes);
  const answer = checkAnswer(decodeAnswer(said), 'challenge', label, session);
  const challenge = await reader.readExactly(challengeBytes);
  const roundTripMs = environment.now() - start;
  const { proof, ...theirs } = decodeChallenge(challenge);
  if (answer.version !== chooseVersion(theirs, own)) {
    throw new MigrationError(
      'version-mismatch',
      `${label}: not the highest protocol version in common was chosen`,
    );
  }
  const proven = challenge.subarray(0, challengeProvenBytes);
  if (!equalInConstantTime(proof, prove(options, 'acceptor', [greeting, said, proven]))) {
    throw new MigrationError(
      'ticket-mismatch',
      `${label}: the peer could not prove that it has this migration's ticket`,
    );
  }
  await options.due;
  await connection.send([prove(options, 'dialler', [greeting, said, challenge])]);
  checkAnswer(decodeAnswer(await reader.readExactly(answerBytes)), 'welcome', label, session);
  return { roundTripMs, version: answer.version };
}

/** Throws unless the answer is the one that is due, to this greeting. */
function checkAnswer(
  answer: Answer,
  due: 'challenge' | 'welcome',
  label: string,
  session: Uint8Array,
): Answer {
  if (answer.status === 'version') {
    throw new MigrationError('version-mismatch', `${label}: no protocol version in common`);
  }
  if (answer.status === 'refused')
    throw new MigrationError('refused', `${label}: the peer refused the connection`);
  const repeated = session.every((byte, index) => answer.session[index] === byte);
  if (!repeated || answer.status !== due) {
    throw new MigrationError('protocol', `${label}: the answer belongs to another greeting`);
  }
  return answer;
}

/**
 * Reads the greeting of an accepted connection. Whoever says more than that, before it is challenged, is dropped: so a stranger costs no
 * more than the longest greeting and what the transport reads at once. Rejects as {@link dial} does; then the connection is gone.
 */
export async function readGreeting(
  connection: Connection,
  environment: Environment,
  limitMs: number,
  own: VersionRange = versions,
): Promise<GreetingConnection> {
  try {
    const reader = new ByteReader(connection);
    const greeted = { connection, reader, roundTripMs: 0 };
    const read = async (): Promise<GreetingConnection> => {
      const first = await reader.readExactly(greetingHeadBytes);
      const { tailBytes, ...head } = decodeGreetingHead(first);
      if (chooseVersion(head, own) === undefined) {
        // Another version's rest may be anything.
        const unread = { ...greeted, greeting: { ...head, nonce: nothing, vmId: '' }, bytes: first };
        await refuse(unread, environment, 'version');
        throw new MigrationError('version-mismatch', `${connection.label}: no protocol version in common`);
      }
      const rest = await reader.readExactly(tailBytes);
      if (reader.holdsMore) {
        throw new MigrationError('protocol', `${connection.label}: it did not wait for the challenge`);
      }
      return {
        ...greeted,
        greeting: { ...head, ...decodeGreetingTail(rest) },
        bytes: joinChunks([first, rest]),
      };
    };
    return await withTimeout(environment, limitMs, read(), () => timeout(connection.label));
  } catch (error) {
    connection.abort(error);
    throw error;
  }
}

/** What {@link challenge} needs. */
export interface ChallengeOptions extends Credentials {
  readonly environment: Environment;
  /** For the answer, in ms. */
  readonly limitMs: number;
}

/**
 * Proves itself to whoever greeted and has it do the same. Rejects with `ticket-mismatch` if it cannot, and has refused it then, `timeout`,
 * `connection-lost` or `protocol`; then the connection is gone.
 */
export async function challenge(
  greeted: GreetingConnection,
  options: ChallengeOptions,
): Promise<ProvedConnection> {
  const { environment, limitMs, versions: own = versions } = options;
  const { connection, reader, bytes: greeting } = greeted;
  const { session } = greeted.greeting;
  try {
    const version = chooseVersion(greeted.greeting, own) ?? 0;
    const answer = encodeAnswer({ version, status: 'challenge', session });
    const nonce = environment.randomBytes(nonceBytes);
    const asked = encodeChallenge({ ...own, nonce }, (proven) =>
      prove(options, 'acceptor', [greeting, answer, proven]),
    );
    const asking = async (): Promise<Uint8Array> => {
      await connection.send([answer, asked]);
      return reader.readExactly(proofBytes);
    };
    const proof = await withTimeout(environment, limitMs, asking(), () => timeout(connection.label));
    if (!equalInConstantTime(proof, prove(options, 'dialler', [greeting, answer, asked]))) {
      await refuse(greeted, environment);
      throw new MigrationError('ticket-mismatch', `${connection.label}: its proof of the ticket is wrong`);
    }
    return { ...greeted, version };
  } catch (error) {
    connection.abort(error);
    throw error;
  }
}

/** Lets the connection in. */
export async function welcome({ connection, greeting, version }: ProvedConnection): Promise<void> {
  await connection.send([encodeAnswer({ version, status: 'welcome', session: greeting.session })]);
}

/** Turns the connection away and ends it. Does not reject. */
export function refuse(
  greeted: GreetingConnection,
  environment: Environment,
  status: 'refused' | 'version' = 'refused',
): Promise<void> {
  const answer = encodeAnswer({ version: 0, status, session: greeted.greeting.session });
  return end(greeted.connection, environment, [answer]);
}

/**
 * Says its last words and ends a connection in good order. A peer that does not end it too, in time, is not waited for: the connection is
 * dropped. Does not reject.
 */
export async function end(
  connection: Connection,
  environment: Environment,
  lastWords: Chunks = [],
): Promise<void> {
  const ending = async (): Promise<void> => {
    if (lastWords.length > 0) await connection.send(lastWords);
    await connection.close();
  };
  try {
    await withTimeout(environment, endMsMax, ending(), () => {
      return new MigrationError('timeout', `${connection.label}: the peer did not end it in time`);
    });
  } catch (error) {
    connection.abort(error);
  }
}
