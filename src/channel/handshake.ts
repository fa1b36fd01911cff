import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport } from '../interfaces/transport.ts';
import type { Chunks } from '../util/chunks.ts';
import { onAbort } from '../util/on-abort.ts';
import { raceAbort, withTimeout } from '../util/promises.ts';
import {
  type Answer,
  answerBytes,
  chooseVersion,
  decodeAnswer,
  decodeGreetingHead,
  decodeGreetingTail,
  encodeAnswer,
  encodeGreeting,
  type Greeting,
  greetingHeadBytes,
  type Purpose,
  versionMax,
  versionMin,
} from '../wire/greeting.ts';
import { ByteReader } from './byte-reader.ts';

/** A connection whose two ends have greeted each other. */
export interface GreetedConnection {
  readonly connection: Connection;
  readonly reader: ByteReader;
  /** From the greeting to its answer; 0 at the end that answered. */
  readonly roundTripMs: number;
}

/** A connection whose greeting has arrived and waits for {@link welcome} or {@link refuse}. */
export interface GreetingConnection extends GreetedConnection {
  readonly greeting: Greeting;
}

export interface DialOptions {
  readonly purpose: Purpose;
  readonly lane: number;
  readonly session: Uint8Array;
  /** Which VM the connection is for. */
  readonly vmId: string;
  readonly environment: Environment;
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
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

/**
 * Opens a connection and greets. Rejects with `connect-failed`, `timeout`, `version-mismatch`, `refused`, `protocol` or
 * `connection-lost`; then the connection is gone.
 */
export async function dial(transport: Transport, options: DialOptions): Promise<GreetedConnection> {
  const { environment, limitMs, signal } = options;
  const connection = await open(transport, options);
  try {
    const reader = new ByteReader(connection);
    const start = environment.now();
    const greet = async (): Promise<Answer> => {
      const { purpose, lane, session, vmId } = options;
      await connection.send([encodeGreeting({ versionMin, versionMax, purpose, lane, session, vmId })]);
      return decodeAnswer(await reader.readExactly(answerBytes));
    };
    const answer = await withTimeout(environment, limitMs, raceAbort(greet(), signal), () =>
      timeout(connection.label),
    );
    checkAnswer(answer, connection.label, options.session);
    return { connection, reader, roundTripMs: environment.now() - start };
  } catch (error) {
    connection.abort(error);
    throw error;
  }
}

function checkAnswer(answer: Answer, label: string, session: Uint8Array): void {
  if (answer.status === 'version') {
    throw new MigrationError('version-mismatch', `${label}: no protocol version in common`);
  }
  if (answer.status === 'refused')
    throw new MigrationError('refused', `${label}: the peer refused the connection`);
  const repeated = session.every((byte, index) => answer.session[index] === byte);
  if (!repeated || answer.version < versionMin || answer.version > versionMax) {
    throw new MigrationError('protocol', `${label}: the answer belongs to another greeting`);
  }
}

/** Reads the greeting of an accepted connection. Rejects as {@link dial} does; then the connection is gone. */
export async function readGreeting(
  connection: Connection,
  environment: Environment,
  limitMs: number,
): Promise<GreetingConnection> {
  try {
    const reader = new ByteReader(connection);
    const greeted = { connection, reader, roundTripMs: 0 };
    const read = async (): Promise<GreetingConnection> => {
      const { tailBytes, ...head } = decodeGreetingHead(await reader.readExactly(greetingHeadBytes));
      // Another version's rest may be anything.
      if (chooseVersion(head) === undefined) return { ...greeted, greeting: { ...head, vmId: '' } };
      return {
        ...greeted,
        greeting: { ...head, vmId: decodeGreetingTail(await reader.readExactly(tailBytes)) },
      };
    };
    const greeting = await withTimeout(environment, limitMs, read(), () => timeout(connection.label));
    if (chooseVersion(greeting.greeting) === undefined) {
      await refuse(greeting, environment, 'version');
      throw new MigrationError('version-mismatch', `${connection.label}: no protocol version in common`);
    }
    return greeting;
  } catch (error) {
    connection.abort(error);
    throw error;
  }
}

/** Lets the connection in. */
export async function welcome(greeted: GreetingConnection): Promise<void> {
  const version = chooseVersion(greeted.greeting) ?? 0;
  await greeted.connection.send([
    encodeAnswer({ version, status: 'welcome', session: greeted.greeting.session }),
  ]);
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
