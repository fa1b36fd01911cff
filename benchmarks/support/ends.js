import { fork } from 'node:child_process';
import { once } from 'node:events';

/**
 * What the processes of a benchmark tell each other: its ends measure themselves, and the main process asks.
 *
 * @typedef {object} Usage What an end cost.
 * @property {number} cpuSeconds User and system.
 * @property {number} rssBytes At its peak, of the process's whole life.
 */

/**
 * @template Result
 * @typedef {{ sender: Usage & Result, receiver: Usage & Result }} Run One transfer: what each end told.
 */

/** @returns {() => Usage} What this process has cost since. */
export function startMeter() {
  const before = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(before);
    return { cpuSeconds: (user + system) / 1e6, rssBytes: process.resourceUsage().maxRSS * 1024 };
  };
}

/**
 * What a task asks for, in bytes: what warms the processes, if anything, and then what counts.
 *
 * @param {{ bytes: number, warmBytes?: number }} task @returns {number[]}
 */
export function sizes({ bytes, warmBytes = 0 }) {
  return warmBytes === 0 ? [bytes] : [warmBytes, bytes];
}

/** From an end to the main process. @param {object} message @returns {Promise<void>} */
export function tell(message) {
  return new Promise((resolve, reject) => {
    process.send?.(message, (/** @type {Error | null} */ error) =>
      error === null ? resolve() : reject(error),
    );
  });
}

/** Tells, and waits for the word to go. @param {object} message */
export async function told(message) {
  const go = once(process, 'message');
  await tell(message);
  await go;
}

/**
 * Runs the end that this process was started for.
 *
 * @template Task
 * @param {Record<string, (task: Task) => Promise<void>>} ends By name.
 * @param {string} end @param {Task} task
 */
export async function runEnd(ends, end, task) {
  const run = ends[end];
  if (run === undefined) throw new Error(`there is no end ${end}`);
  await run(task);
  process.disconnect();
}

/**
 * An end, seen from the main process.
 *
 * @param {string} end Its name, for errors.
 * @param {import('node:child_process').ChildProcess} child Started with an IPC channel.
 */
export function follow(end, child) {
  /** @type {any[]} */
  const messages = [];
  let wake = () => {};
  child.on('message', (message) => {
    messages.push(message);
    wake();
  });
  child.on('exit', () => wake());
  return {
    go: () => child.send('go'),
    /** What it tells next. @returns {Promise<any>} */
    next: async () => {
      while (messages.length === 0) {
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error(`${end} ended with ${child.exitCode ?? child.signalCode}`);
        await new Promise((resolve) => {
          wake = () => resolve(undefined);
        });
      }
      return messages.shift();
    },
    end: async () => {
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
    },
    kill: () => child.kill('SIGKILL'),
  };
}

/**
 * What a task asks for, between two ends, each a process of its own: one transfer after the other in the same two processes. The receiver says its port each time, which stays the same, and then what it cost; the sender that it is ready, and, told to go, the same.
 *
 * @template Result
 * @param {string} script Which runs the ends: see {@link runEnd}.
 * @param {{ sender: string, receiver: string }} names Of the ends.
 * @param {{ bytes: number, warmBytes?: number, port: number }} task For both; the port is the receiver's, for the sender.
 * @returns {Promise<Run<Result>>} The last one.
 */
export async function transfer(script, names, task) {
  const start = (/** @type {string} */ end, /** @type {object} */ what) =>
    follow(end, fork(script, [end, JSON.stringify(what)]));
  const receiver = start(names.receiver, task);
  let sender;
  try {
    const { port } = await receiver.next();
    sender = start(names.sender, { ...task, port });
    for (let left = sizes(task).length; ; left--) {
      await sender.next();
      sender.go();
      const run = { sender: await sender.next(), receiver: await receiver.next() };
      if (left === 1) {
        await Promise.all([sender.end(), receiver.end()]);
        return run;
      }
      await receiver.next();
    }
  } catch (error) {
    sender?.kill();
    receiver.kill();
    throw error;
  }
}
