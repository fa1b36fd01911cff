import { connect, type Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { onAbort } from '../../util/on-abort.ts';
import { abortError, type Deferred, deferred, raceAbort, throwIfAborted } from '../../util/promises.ts';
import { JsonLines } from './json-lines.ts';

/**
 * QMP, QEMU's control protocol: one JSON object a line, over a unix socket that serves one client at a time.
 *
 *     QEMU    {"QMP": {"version": …, "capabilities": […]}}             the greeting
 *     client  {"execute": "qmp_capabilities", "id": 0}                 leaves the negotiation mode
 *     QEMU    {"return": {}, "id": 0}
 *     client  {"execute": NAME, "arguments": {…}, "id": N}             any number without waiting
 *     QEMU    {"return": …, "id": N}  or  {"error": {"class": …, "desc": …}, "id": N}
 *     QEMU    {"event": NAME, "data": {…}, "timestamp": {…}}           at any time
 */

/**
 * One reply. Large ones are lists of devices or of dirty bitmaps, some MiB; 64 MiB is none that we ask for.
 */
const LINE_BYTES_MAX = 64 * 1024 * 1024;
/** A QEMU that greets takes some milliseconds. One that does not serves another client, which may be about to go. */
const GREETING_MS_MAX = 10_000;
/** Commands without an answer. QEMU itself stops reading at eight, so more only wait in the socket. */
const OUTSTANDING_MAX = 1024;

/** A JSON object. */
export type QmpObject = { readonly [key: string]: unknown };

/** What QEMU calls itself in the greeting. */
export interface QmpVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** The packager's own, may be empty. */
  readonly package: string;
}

/** Something that QEMU says unasked. */
export interface QmpEvent {
  /** For example `STOP`. */
  readonly name: string;
  /** Empty if the event has none. */
  readonly data: QmpObject;
}

/** Options of {@link QmpClient.connect}. */
export interface QmpConnectOptions extends CallOptions {
  /**
   * The longest line that is taken, in bytes. Default 64 MiB; past it the connection fails with `protocol`.
   */
  readonly lineBytesMax?: number;
  /** How long QEMU may take to greet, in ms. Default 10,000. */
  readonly greetingMsMax?: number;
}

/**
 * A command that QEMU answered with an error: the cause of a `hypervisor` error of {@link QmpClient.execute}.
 */
export class QmpCommandError extends Error {
  readonly command: string;
  /**
   * QEMU's class: `GenericError` mostly; `CommandNotFound`, `DeviceNotFound`, `DeviceNotActive`,
   * `KVMMissingCap`.
   */
  readonly errorClass: string;
  /** QEMU's words. */
  readonly desc: string;

  constructor(command: string, errorClass: string, desc: string) {
    super(`${command}: ${desc}`);
    this.name = 'QmpCommandError';
    this.command = command;
    this.errorClass = errorClass;
    this.desc = desc;
  }
}

/**
 * What QEMU said, if this is an error of {@link QmpClient.execute} that QEMU answered with; else `undefined`.
 */
export function qmpCommandError(error: unknown): QmpCommandError | undefined {
  if (error instanceof QmpCommandError) return error;
  return error instanceof MigrationError && error.cause instanceof QmpCommandError ? error.cause : undefined;
}

/** True for a JSON object, which is what most commands return. */
export function isQmpObject(value: unknown): value is QmpObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

interface Outstanding {
  readonly command: string;
  readonly reply: Deferred<unknown>;
}

interface Waiter {
  readonly predicate: ((event: QmpEvent) => boolean) | undefined;
  readonly found: Deferred<QmpEvent>;
}

/**
 * One connection to a QEMU's QMP socket.
 *
 * QEMU carries commands out in the order in which they were called, and answers each before the next. Once it is
 * connected nothing here has a time limit: a QEMU that is busy answers late, one that hangs not at all, and the caller's
 * signals say how long is too long.
 *
 * When the socket dies, QEMU breaks the protocol, or {@link QmpClient.abort} is called, everything
 * outstanding rejects with one and the same error, and so does every later call. Whether a command that was
 * outstanding was carried out is not known then.
 */
export class QmpClient {
  readonly #path: string;
  readonly #socket: Socket;
  readonly #lines: JsonLines;
  readonly #outstanding = new Map<number, Outstanding>();
  readonly #listeners = new Map<string, Set<(event: QmpEvent) => void>>();
  readonly #waiters = new Map<string, Set<Waiter>>();
  readonly #greeting = deferred<QmpVersion>();
  readonly #closed = deferred<MigrationError | undefined>();
  readonly #idle = deferred<void>();
  #version: QmpVersion | undefined;
  #nextId = 0;
  #connected = false;
  #closing = false;
  #failure: MigrationError | undefined;
  #failed: MigrationError | undefined;

  private constructor(path: string, lineBytesMax: number) {
    this.#path = path;
    this.#lines = new JsonLines(lineBytesMax, (value) => this.#onMessage(value));
    this.#socket = connect({ path });
    this.#socket.on('connect', () => {
      this.#connected = true;
    });
    this.#socket.on('data', (chunk) => this.#onData(chunk));
    this.#socket.on('error', (error) => this.#onError(error));
    this.#socket.on('end', () => this.#onClose());
    this.#socket.on('close', () => this.#onClose());
  }

  /**
   * Connects, takes the greeting and leaves the negotiation mode. Rejects with `connect-failed` if nobody
   * listens, or nobody greets in time, `protocol` if it is not QMP, `hypervisor` if QEMU hangs up, `aborted`; then
   * nothing is left open. While another client is connected QEMU accepts but does not greet: that is waited for, for a while.
   */
  static async connect(path: string, options: QmpConnectOptions = {}): Promise<QmpClient> {
    const { signal, lineBytesMax = LINE_BYTES_MAX, greetingMsMax = GREETING_MS_MAX } = options;
    throwIfAborted(signal);
    const client = new QmpClient(path, lineBytesMax);
    const takeBack = signal && onAbort(signal, () => client.#end(abortError(signal)));
    const silent = `QMP at ${path}: no greeting in ${greetingMsMax} ms: another client holds it, or QEMU hangs`;
    const cancel = nodeEnvironment.setTimer(greetingMsMax, () =>
      client.#end(new MigrationError('connect-failed', silent)),
    );
    try {
      client.#version = await client.#greeting.promise;
      await client.execute('qmp_capabilities');
      return client;
    } catch (error) {
      client.abort(error);
      throw error;
    } finally {
      cancel();
      takeBack?.();
    }
  }

  /** The version that QEMU gave in its greeting. */
  get version(): QmpVersion {
    if (this.#version === undefined) throw new MigrationError('internal', 'QMP: no greeting yet');
    return this.#version;
  }

  /** Why the connection has ended; `undefined` while it stands, and after {@link QmpClient.close}. */
  get failure(): MigrationError | undefined {
    return this.#failed;
  }

  /**
   * Resolves, never rejects, when the connection has ended: with the reason, or `undefined` after
   * {@link QmpClient.close}.
   */
  get closed(): Promise<MigrationError | undefined> {
    return this.#closed.promise;
  }

  /**
   * Sends a command and resolves with what it returned. Rejects with `hypervisor` if QEMU answers with an
   * error ({@link qmpCommandError} has its words) or goes away, `protocol` if it breaks the protocol,
   * `aborted`, and `invalid-state` after `close()` or with 1024 commands unanswered. Whether a command whose
   * call was aborted is carried out is not known.
   */
  async execute(command: string, args?: QmpObject, options: CallOptions = {}): Promise<unknown> {
    throwIfAborted(options.signal);
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#closing) throw new MigrationError('invalid-state', `QMP: ${command} after close()`);
    if (this.#outstanding.size >= OUTSTANDING_MAX) {
      throw new MigrationError(
        'invalid-state',
        `QMP: ${command}: ${OUTSTANDING_MAX} commands are unanswered`,
      );
    }
    const id = this.#nextId;
    this.#nextId += 1;
    const line = JSON.stringify({ execute: command, ...(args === undefined ? {} : { arguments: args }), id });
    const reply = deferred<unknown>();
    this.#outstanding.set(id, { command, reply });
    this.#socket.write(`${line}\n`);
    return await raceAbort(reply.promise, options.signal);
  }

  /**
   * Calls the listener for each such event from now on, in order, as QEMU sent them among its replies.
   * Returns what takes it off again. A listener that throws fails the connection with `internal`.
   */
  on(event: string, listener: (event: QmpEvent) => void): () => void {
    const listeners = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, listeners);
    // One entry a call, so that the same function may listen twice and each is taken off by itself.
    const entry = (received: QmpEvent): void => listener(received);
    listeners.add(entry);
    return () => {
      listeners.delete(entry);
    };
  }

  /**
   * Resolves with the first such event from now on for which the predicate holds. It listens when the call
   * returns, so call it before the command that causes the event. Rejects when the connection ends, the
   * signal is aborted, or the predicate throws; a rejection that nobody awaits does no harm.
   */
  waitFor(
    event: string,
    predicate?: (event: QmpEvent) => boolean,
    options: CallOptions = {},
  ): Promise<QmpEvent> {
    const found = deferred<QmpEvent>();
    const { signal } = options;
    const stopped =
      this.#failure ?? (this.#closing ? new MigrationError('invalid-state', 'QMP: closed') : undefined);
    if (stopped !== undefined) found.reject(stopped);
    else if (signal?.aborted) found.reject(abortError(signal));
    else {
      const waiters = this.#waiters.get(event) ?? new Set();
      this.#waiters.set(event, waiters);
      const waiter: Waiter = { predicate, found };
      waiters.add(waiter);
      const takeBack = signal && onAbort(signal, () => found.reject(abortError(signal)));
      const detach = (): void => {
        waiters.delete(waiter);
        takeBack?.();
      };
      found.promise.then(detach, detach);
    }
    return found.promise;
  }

  /**
   * Waits until every command is answered, then closes; no new commands from here on. Never rejects; resolves
   * at once if the connection has ended. May be called twice. A QEMU that hangs is left with
   * {@link QmpClient.abort}.
   */
  async close(): Promise<void> {
    this.#closing = true;
    if (this.#failure === undefined && this.#outstanding.size > 0) await this.#idle.promise;
    this.#end(undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * Drops the connection now; everything outstanding rejects with the reason. May be called in any state, and
   * twice.
   */
  abort(reason: unknown): void {
    this.#end(asMigrationError(reason, 'aborted'));
  }

  /**
   * Ends the connection, once. Without an error it was asked for, and only waiters for events can be left.
   */
  #end(error: MigrationError | undefined): void {
    this.#socket.destroy();
    if (this.#failure !== undefined) return;
    const failure = error ?? new MigrationError('invalid-state', 'QMP: closed');
    this.#failure = failure;
    this.#failed = error;
    this.#greeting.reject(failure);
    this.#closed.resolve(error);
    for (const { reply } of this.#outstanding.values()) reply.reject(failure);
    this.#outstanding.clear();
    for (const waiters of this.#waiters.values()) for (const { found } of waiters) found.reject(failure);
    this.#idle.resolve();
  }

  #onData(chunk: Buffer): void {
    if (this.#failure !== undefined) return;
    try {
      this.#lines.push(chunk);
    } catch (error) {
      this.#end(asMigrationError(error, 'internal'));
    }
  }

  #onError(error: Error): void {
    this.#end(
      asMigrationError(error, this.#connected ? 'hypervisor' : 'connect-failed', `QMP at ${this.#path}`),
    );
  }

  #onClose(): void {
    this.#end(new MigrationError('hypervisor', `QMP at ${this.#path}: QEMU closed the connection`));
  }

  #onMessage(message: unknown): void {
    if (this.#failure !== undefined) return;
    if (!isQmpObject(message)) throw violation('a line that is not an object');
    if (this.#version === undefined && 'QMP' in message) this.#greeting.resolve(parseVersion(message.QMP));
    else if (typeof message.event === 'string') {
      this.#onEvent({ name: message.event, data: isQmpObject(message.data) ? message.data : {} });
    } else if ('return' in message || 'error' in message) this.#onReply(message);
    else throw violation('a message of no known kind');
  }

  #onReply(message: QmpObject): void {
    const outstanding = typeof message.id === 'number' ? this.#outstanding.get(message.id) : undefined;
    if (outstanding === undefined || typeof message.id !== 'number') {
      const desc = isQmpObject(message.error) ? `: ${String(message.error.desc)}` : '';
      throw violation(`a reply to no command${desc}`);
    }
    this.#outstanding.delete(message.id);
    const { command, reply } = outstanding;
    if ('error' in message) {
      const error = isQmpObject(message.error) ? message.error : {};
      const cause = new QmpCommandError(command, String(error.class), String(error.desc));
      reply.reject(new MigrationError('hypervisor', `QMP ${cause.message}`, { cause }));
    } else reply.resolve(message.return);
    if (this.#outstanding.size === 0 && this.#closing) this.#idle.resolve();
  }

  #onEvent(event: QmpEvent): void {
    for (const waiter of [...(this.#waiters.get(event.name) ?? [])]) {
      try {
        if (waiter.predicate === undefined || waiter.predicate(event)) waiter.found.resolve(event);
      } catch (error) {
        waiter.found.reject(asMigrationError(error, 'internal'));
      }
    }
    for (const listener of [...(this.#listeners.get(event.name) ?? [])]) listener(event);
  }
}

function violation(what: string): MigrationError {
  return new MigrationError('protocol', `QMP: ${what}`);
}

function parseVersion(greeting: unknown): QmpVersion {
  const version = isQmpObject(greeting) ? greeting.version : undefined;
  const qemu = isQmpObject(version) ? version.qemu : undefined;
  if (!isQmpObject(version) || !isQmpObject(qemu)) throw violation('a greeting without a version');
  const { major, minor, micro } = qemu;
  if (typeof major !== 'number' || typeof minor !== 'number' || typeof micro !== 'number') {
    throw violation('a version that is not made of numbers');
  }
  return { major, minor, micro, package: typeof version.package === 'string' ? version.package : '' };
}
