import { setTimeout as delay } from 'node:timers/promises';
import type { VmComparison } from '../../backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type HypervisorBackend,
  type MigrationReport,
  memoryLink,
  memoryRegister,
} from '../../index.ts';
import type { Command, Context } from '../command.ts';
import { jsonOption } from '../common-options.ts';
import { Comparison } from '../demo/comparison.ts';
import { type GuestFigures, GuestObserver, renderGuestFigures } from '../demo/guest-observer.ts';
import { createGuestPair, type GuestPair, guestDescription } from '../demo/guest-pair.ts';
import { exitCodeOf, exitCodes } from '../exit-code.ts';
import { reportJson } from '../report-json.ts';
import { renderOutcome, renderReport } from '../report-view.ts';
import { runShown } from '../run-shown.ts';
import { type Interruption, interruptible } from '../signals.ts';
import { formatBytes } from '../units.ts';

/** How long the guest is looked at before it moves, and after. */
const observeMs = 1500;

interface Link {
  readonly rttMs: number;
  readonly rateMbit: number;
}

/** Everything that the demonstration shows. */
interface DemoResult {
  readonly source: MigrationReport;
  readonly destination: MigrationReport;
  /** How memory and disks differed when the guest was started; undefined if it did not come to that. */
  readonly comparison: VmComparison | undefined;
  readonly guest: Readonly<Record<string, GuestFigures>>;
}

/** `longhaul demo`: a migration in one process, which needs no hypervisor. */
export const demo: Command = {
  name: 'demo',
  summary: 'move a simulated VM under load over a simulated network',
  usage: '',
  description: [
    `Moves ${guestDescription}, over a simulated network in this process; it needs no hypervisor.`,
    'At the end memory and disks, as they were when the guest was started at the destination, are ' +
      'compared with the source\u2019s, byte for byte; a difference ends with exit code 1.',
  ],
  options: {
    'rtt-ms': { value: 'N', help: 'round trip of the network, 0 to 2000 (default 100)' },
    'rate-mbit': { value: 'N', help: 'its rate each way in Mbit/s, 50 to 100000 (default 400)' },
    json: jsonOption,
  },

  async run(options, context) {
    const rttMs = options.number('rtt-ms', { min: 0, max: 2000 }) ?? 100;
    const rateMbit = options.number('rate-mbit', { min: 50, max: 100_000 }) ?? 400;
    const json = options.flag('json');
    const { screen } = context;
    const interruption = interruptible(context.signals, 'the guest stays on the source', (line) =>
      screen.log(line),
    );
    screen.log(guestDescription);
    screen.log(`a network with a round trip of ${rttMs} ms and ${rateMbit} Mbit/s`);
    const pair = createGuestPair();
    try {
      const result = await show(pair, { rttMs, rateMbit }, context, interruption);
      for (const line of json ? [toJson(result)] : render(result)) context.print(line);
      return exitCodeOfDemo(result);
    } finally {
      pair.source.destroy();
      pair.destination.destroy();
      interruption.close();
    }
  },
};

async function show(
  pair: GuestPair,
  link: Link,
  context: Context,
  interruption: Interruption,
): Promise<DemoResult> {
  const guest: Record<string, GuestFigures> = {};
  const watching = new GuestObserver(pair.source);
  await observe(interruption.signal);
  guest.before = watching.figures();
  const comparing = new Comparison(pair);
  const { source, destination, during } = await migrate(pair, link, comparing.backend, context, interruption);
  guest.during = during;
  if (!bothCompleted({ source, destination })) return { source, destination, comparison: undefined, guest };
  const arrived = new GuestObserver(pair.destination);
  await observe(interruption.signal);
  guest.after = arrived.figures();
  return { source, destination, comparison: await comparing.finish(), guest };
}

async function migrate(
  { source: vm }: GuestPair,
  { rttMs, rateMbit }: Link,
  backend: HypervisorBackend,
  { screen }: Context,
  interruption: Interruption,
): Promise<Pick<DemoResult, 'source' | 'destination'> & { readonly during: GuestFigures }> {
  const link = memoryLink({ rttMs, rateMbit });
  const giveUp = new AbortController();
  const source = createSource({ vm: vm.source(), transport: link.source, register: memoryRegister() });
  const destination = createDestination({ backend, transport: link.destination, register: memoryRegister() });
  const observer = new GuestObserver(vm);
  source.on('phase', (phase) => {
    if (phase === 'stun') observer.stopped();
  });
  const arriving = destination.run({ signal: giveUp.signal });
  try {
    const sent = await runShown(source, 'source', screen, interruption);
    const during = observer.figures();
    // A source that ended before it connected leaves a destination that waits.
    if (sent.outcome !== 'completed') giveUp.abort();
    return { source: sent, destination: await arriving, during };
  } finally {
    await Promise.all([link.source.close(), link.destination.close()]);
  }
}

/** Lets the guest run; a user in a hurry cuts it short. */
async function observe(signal: AbortSignal): Promise<void> {
  await delay(observeMs, undefined, { signal }).catch(() => {});
}

function bothCompleted({ source, destination }: Pick<DemoResult, 'source' | 'destination'>): boolean {
  return source.outcome === 'completed' && destination.outcome === 'completed';
}

function exitCodeOfDemo(result: DemoResult): number {
  if (bothCompleted(result)) return result.comparison?.equal ? exitCodes.completed : exitCodes.failed;
  return Math.max(exitCodeOf(result.source), exitCodeOf(result.destination));
}

function toJson({ source, destination, comparison, guest }: DemoResult): string {
  return reportJson(source, source.error, {
    destination: JSON.parse(reportJson(destination, destination.error)),
    equal: comparison?.equal ?? null,
    guest,
  });
}

function render({ source, destination, comparison, guest }: DemoResult): readonly string[] {
  const lines = [...renderReport(source)];
  if (source.outcome === 'completed' && destination.outcome !== 'completed')
    lines.push('', ...renderOutcome(destination));
  lines.push('', ...renderGuestFigures(guest));
  if (comparison !== undefined) lines.push('', renderComparison(comparison));
  return lines;
}

function renderComparison({ equal, memoryBytes, diskBytes }: VmComparison): string {
  const found = equal
    ? 'equal'
    : `DIFFERENT in ${formatBytes(memoryBytes)} of memory and ${formatBytes(diskBytes)} of disk`;
  return `memory and disks when the guest was started: ${found}`;
}
