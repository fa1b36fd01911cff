import type { Channel } from '../../channel/channel.ts';
import { ask } from '../../channel/question.ts';
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { Claim, OwnershipRegister } from '../../interfaces/register.ts';
import type { Transport } from '../../interfaces/transport.ts';
import { delay, withTimeout } from '../../util/promises.ts';
import type { Durations } from '../../wire/messages.ts';
import type { Stopwatch } from '../downtime.ts';
import { claimsAt, type Decision, verdictForSource } from './ownership.ts';

export interface CommitOptions {
  readonly channel: Channel;
  /** To ask on, should the channel be lost. */
  readonly transport: Transport;
  readonly secret?: Uint8Array | undefined;
  readonly environment: Environment;
  readonly register: OwnershipRegister;
  readonly vmId: string;
  readonly epoch: number;
  /** Sends GO, or FINAL that is GO as well. Called once *given* stands. */
  readonly give: () => void;
  /** Where the time goes. */
  readonly watch: Stopwatch;
  /** How long to wait for the decision, and to ask for it. */
  readonly decideMsMax: number;
}

/** Between two questions: soon enough to cost an operator nothing, seldom enough for a host that is coming up. */
const askAgainMs = 250;
/** How long a destination may take to decline what it was told to. */
const calledOffMs = 5000;
/** One question may take this long, then another is asked. */
const askMsMax = 2000;

/**
 * Gives a sealed VM to the destination and learns its decision. Resolves when the destination owns it. Throws `declined` with `owner:
 * 'source'` when it declined, and the VM has been reclaimed: the caller resumes it. Throws with `owner: 'undecided'` when the decision
 * could not be learned in time: the VM must not run here until {@link recover} says so.
 */
export async function commit(options: CommitOptions): Promise<void> {
  const { channel, register, vmId, epoch } = options;
  let problem: MigrationError | undefined;
  try {
    const late = () => new MigrationError('register', 'the claim of given took too long');
    const claiming = register.claim(vmId, epoch, 'source', 'given');
    // Should it stand later than that, no harm is done: without GO the destination can only decline.
    await withTimeout(options.environment, options.decideMsMax, claiming, late);
    options.watch.lap('claims');
    options.give();
  } catch (error) {
    // The claim may stand all the same, so only the destination's word counts now. Without GO it can only decline.
    problem = asMigrationError(error, 'register', 'the claim on the source failed');
    channel.send({ type: 'abort', code: problem.code, reason: problem.message });
  }
  const { decision, reason, durations = {} } = await learnDecision(options);
  options.watch.lapOfPeer(durations);
  const given: Claim = { epoch, role: 'source', value: 'given' };
  switch (verdictForSource([given], epoch, decision)) {
    case 'released':
      return;
    case 'reclaim-then-run': {
      const detail = await reclaim(options);
      const why = problem?.message ?? (reason || 'it gave no reason');
      throw new MigrationError('declined', `the destination declined: ${why}${detail}`, {
        owner: 'source',
        cause: problem,
      });
    }
    case 'run':
    case 'ask':
      throw new MigrationError(
        'owner-undecided',
        `the destination's decision on attempt ${epoch} of ${vmId} is not known; ask again with recover() when it can be reached`,
        { owner: 'undecided', guest: 'paused', cause: problem },
      );
  }
}

/**
 * Claims *reclaimed*. Should that fail, the source may run all the same, since *declined* stands at the destination and cannot change; the
 * register then asks once more after a crash, and gets the same answer.
 */
async function reclaim({ register, environment, vmId, epoch, decideMsMax }: CommitOptions): Promise<string> {
  try {
    const late = () => new MigrationError('register', 'the claim of reclaimed took too long');
    const claiming = register.claim(vmId, epoch, 'return', 'reclaimed');
    await withTimeout(environment, decideMsMax, claiming, late);
    return '';
  } catch (error) {
    return `; and the register could not take the reclaim: ${asMigrationError(error, 'register').message}`;
  }
}

interface Learned {
  readonly decision: Decision | undefined;
  readonly reason: string;
  /** What the destination did from when it had GO. */
  readonly durations?: Durations | undefined;
}

/** From the channel; while its link is gone also from a shared register; once it has failed, by asking; until `decideMsMax` is over. */
async function learnDecision(options: CommitOptions): Promise<Learned> {
  const { channel, environment, decideMsMax } = options;
  let deadlineMs = environment.now() + decideMsMax;
  let calledOff = false;
  let heard: Learned | undefined;
  const hearing = channel.mailbox.take('decided').then(
    ({ value, reason, durations }) => {
      heard = { decision: value, reason, durations };
    },
    () => {},
  );
  for (;;) {
    const failed = channel.signal.aborted;
    const over = environment.now() >= deadlineMs;
    if (heard === undefined && (failed || channel.isCut || over)) {
      // While the channel may come back nobody is asked: a question that overtook GO would have it declined.
      const mayAsk = failed || over;
      const decision = (await readDecision(options)) ?? (mayAsk ? await askDecision(options) : undefined);
      if (decision !== undefined) return { decision, reason: 'the connection was lost' };
    }
    if (heard !== undefined) return heard;
    if (over && (calledOff || failed || channel.isCut)) return { decision: undefined, reason: '' };
    if (over) {
      // It is there, and does not come to an end: what has not decided by now is to decline.
      calledOff = true;
      deadlineMs = environment.now() + calledOffMs;
      channel.send({ type: 'abort', code: 'timeout', reason: 'no decision came in time' });
    }
    const enough = new AbortController();
    const pause = delay(environment, askAgainMs, enough.signal).catch(() => {});
    await (failed ? pause : Promise.race([hearing, pause]));
    enough.abort();
  }
}

async function readDecision(options: CommitOptions): Promise<Decision | undefined> {
  const { environment, register, vmId, epoch } = options;
  const late = () => new MigrationError('register', 'reading took too long');
  try {
    return claimsAt(await withTimeout(environment, askMsMax, register.read(vmId), late), epoch).decision;
  } catch {
    return undefined;
  }
}

async function askDecision(options: CommitOptions): Promise<Decision | undefined> {
  try {
    const value = await ask({ ...options, limitMs: askMsMax, signal: undefined });
    return value === 'pending' ? undefined : value;
  } catch {
    return undefined;
  }
}
