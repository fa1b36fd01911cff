import { setTimeout as delay } from 'node:timers/promises';
import {
  createDestination,
  createSource,
  type MigrationReport,
  memoryLink,
  memoryRegister,
} from '../../index.ts';
import type { Command, Context } from '../command.ts';
import { jsonOption } from '../common-options.ts';
import { type CheckedBackend, checkedBackend } from '../demo/checked-backend.ts';
import { type GuestFigures, GuestObserver, renderGuestFigures } from '../demo/guest-observer.ts';
import { createGuestPair, type GuestPair, guestDescription } from '../demo/guest-pair.ts';
import { exitCodeOf } from '../exit-code.ts';
import { reportJson } from '../report-json.ts';
import { renderOutcome, renderReport } from '../report-view.ts';
import { runShown } from '../run-shown.ts';
import { type Interruption, interruptible } from '../signals.ts';

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
  /** Whether memory and disks were equal when the guest was started; null if it did not come to that. */
  readonly equal: boolean | null;
  readonly guest: Readonly<Record<string, GuestFigures>>;
}

/** `longhaul demo`: a migration in one process, which needs no hypervisor. */
export const demo: Command = {
  name: 'demo',
  summary: 'move a simulated VM under load over a simulated network',
  usage: '',
  description: [
    `Moves ${guestDescription}, over a simulated network in this process; it needs no hypervisor. ` +
      'The guest is started at the destination only if its memory and disks equal those of the source, byte for byte.',
  ],
  options: {
    'rtt-ms': { value: 'N', help: 'round trip of the network, 0 to 2000 (default 100)' },
    'rate-mbit': { value: 'N', help: 'its rate each way in Mbit/s, 10 to 100000 (default 400)' },
    json: jsonOption,
  },

  async run(options, context) {
    const rttMs = options.number('rtt-ms', { min: 0, max: 2000 }) ?? 100;
    const rateMbit = options.number('rate-mbit', { min: 10, max: 100_000 }) ?? 400;
    const json = options.flag('json');
    const { screen } = context;
    const interruption = interruptible(context.signals, 'the guest stays on the source', (line) =>
      screen.log(line),
    );
    const pair = createGuestPair();
    try {
      screen.log(guestDescription);
      screen.log(`a network with a round trip of ${rttMs} ms and ${rateMbit} Mbit/s`);
      const result = await show(pair, { rttMs, rateMbit }, context, interruption);
      for (const line of json ? [toJson(result)] : render(result)) context.print(line);
      return Math.max(exitCodeOf(result.source), exitCodeOf(result.destination));
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
  const backend = checkedBackend(pair);
  const { source, destination, during } = await migrate(pair, link, backend, context, interruption);
  guest.during = during;
  if (source.outcome === 'completed' && destination.outcome === 'completed') {
    const arrived = new GuestObserver(pair.destination);
    await observe(interruption.signal);
    guest.after = arrived.figures();
  }
  return { source, destination, equal: backend.comparison?.equal ?? null, guest };
}

async function migrate(
  { source: vm }: GuestPair,
  { rttMs, rateMbit }: Link,
  backend: CheckedBackend,
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

function toJson({ source, destination, equal, guest }: DemoResult): string {
  return reportJson(source, source.error, {
    destination: JSON.parse(reportJson(destination, destination.error)),
    equal,
    guest,
  });
}

function render({ source, destination, equal, guest }: DemoResult): readonly string[] {
  const arrived =
    destination.outcome === 'completed' || source.outcome !== 'completed' ? [] : renderOutcome(destination);
  const content =
    equal === null
      ? []
      : [`memory and disks ${equal ? 'equal' : 'DIFFER'}, byte for byte, when the guest was started`];
  return [...renderReport(source), ...arrived, '', ...renderGuestFigures(guest), '', ...content];
}
