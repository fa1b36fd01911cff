import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport } from '../interfaces/transport.ts';
import { raceAbort, withTimeout } from '../util/promises.ts';
import {
  type Answer,
  answerBytes,
  chooseVersion,
  decodeAnswer,
  decodeGreeting,
  encodeAnswer,
  encodeGreeting,
  type Greeting,
  greetingBytes,
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
  readonly environment: Environment;
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

function timeout(label: string): MigrationError {
  return new MigrationError('timeout', `${label}: no answer to the greeting in time`);
}

/**
 * Opens a connection and greets. Rejects with `connect-failed`, `timeout`, `version-mismatch`, `refused`, `protocol` or
 * `connection-lost`; then the connection is gone.
 */
export async function dial(transport: Transport, options: DialOptions): Promise<GreetedConnection> {
  const { environment, limitMs, signal } = options;
  const opening = transport.open({ signal, path: options.lane % transport.paths });
  const drop = (late: Connection) => late.abort();
  const opened = raceAbort(opening, signal, drop);
  const connection = await withTimeout(environment, limitMs, opened, () => {
    opening.then(drop, () => {});
    return new MigrationError('timeout', 'no connection in time');
  });
  try {
    const reader = new ByteReader(connection);
    const start = environment.now();
    const greet = async (): Promise<Answer> => {
      const { purpose, lane, session } = options;
      await connection.send([encodeGreeting({ versionMin, versionMax, purpose, lane, session })]);
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
    const bytes = await withTimeout(environment, limitMs, reader.readExactly(greetingBytes), () =>
      timeout(connection.label),
    );
    const greeting = decodeGreeting(bytes);
    if (chooseVersion(greeting) === undefined) {
      await refuse({ connection, reader, roundTripMs: 0, greeting }, 'version');
      throw new MigrationError('version-mismatch', `${connection.label}: no protocol version in common`);
    }
    return { connection, reader, roundTripMs: 0, greeting };
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
export async function refuse(
  greeted: GreetingConnection,
  status: 'refused' | 'version' = 'refused',
): Promise<void> {
  const answer = encodeAnswer({ version: 0, status, session: greeted.greeting.session });
  try {
    await greeted.connection.send([answer]);
    await greeted.connection.close();
  } catch (error) {
    greeted.connection.abort(error);
  }
}
