/** How well a migration was predicted: what was said before it and on its way, and what it came to. */
import {
  createDestination,
  createSource,
  type Estimate,
  type Interval,
  memoryRegister,
  type OwnershipRegister,
  type Prediction,
  type ProgressPrediction,
} from '../../src/index.ts';
import { useKnownChecksums } from '../../src/testing/sim/known-checksums.ts';
import { repeatCodec } from '../../src/testing/sim/repeat-codec.ts';
import type { Scenario } from '../../src/testing/sim/scenario.ts';
import { World } from '../../src/testing/sim/world.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { delay } from '../../src/util/promises.ts';

/** Shares of the time at which progress is looked at. */
export const lookShares = [0.25, 0.5, 0.75] as const;

/** What a prediction said of a duration, and how long it was. */
export interface Said {
  readonly interval: Interval;
  readonly truthMs: number;
}

/** What was said of one migration at one moment. */
export interface Look {
  /** Before it, or at which share of its time. */
  readonly when: 'before' | (typeof lookShares)[number];
  /** Of the whole before it, of the rest on its way. */
  readonly time: Said;
  readonly downtime: Said;
  readonly prediction: Prediction;
}

/** What became of a scenario. */
export interface PredictionResult {
  readonly seed: number;
  readonly outcome: string;
  /** What the hardest throttle was. */
  readonly throttleMax: number;
  readonly totalMs: number;
  readonly downtimeMs: number;
  readonly estimate: Estimate;
  readonly looks: readonly Look[];
  /** Every fraction that was told, in order. */
  readonly fractions: readonly number[];
}

/** Runs an estimate and then the migration, in virtual time, without its timeline; both ends have a codec if the scenario says so. Equal scenarios and seeds have equal results. */
export async function predictScenario(seed: number, scenario: Scenario): Promise<PredictionResult> {
  const endKnownChecksums = useKnownChecksums();
  try {
    return await run(seed, { ...scenario, timeline: [] });
  } finally {
    endKnownChecksums();
  }
}

interface Told {
  readonly elapsedMs: number;
  readonly prediction: ProgressPrediction | undefined;
}

async function run(seed: number, scenario: Scenario): Promise<PredictionResult> {
  const environment = createVirtualEnvironment(seed);
  if (scenario.hosts?.codec === true) Object.assign(environment, { codecs: [repeatCodec(environment)] });
  const world = new World(environment, seed, scenario, false);
  const { vm, backend, network } = world;
  // The guest is at its work when somebody thinks of moving it.
  await environment.run(environment.now() + 1000);
  const register = () => slowRegister(environment, scenario.registerMs ?? 1);
  const destination = createDestination({
    backend: backend.attachProcess(),
    transport: network.transport({ host: 'destination', listen: 'vm' }),
    register: register(),
    environment,
  });
  const source = createSource({
    vm: vm.attachSource(),
    transport: network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } }),
    register: register(),
    policy: scenario.policy,
    environment,
  });
  const fractions: number[] = [];
  const told: Told[] = [];
  source.on('progress', ({ elapsedMs, prediction, fraction }) => {
    fractions.push(fraction);
    told.push({ elapsedMs, prediction });
  });
  const receiving = destination.run();
  const estimate = await environment.run(source.estimate());
  const [report] = await environment.run(Promise.all([source.run(), receiving]));
  const { totalMs, downtimeMs, throttleMax } = report;
  const looks: Look[] = [
    {
      when: 'before',
      time: { interval: estimate.total, truthMs: totalMs },
      downtime: { interval: estimate.downtime, truthMs: downtimeMs },
      prediction: estimate,
    },
  ];
  for (const when of lookShares) {
    const at = told.find(({ elapsedMs }) => elapsedMs >= when * totalMs);
    if (at?.prediction === undefined || at.elapsedMs > 0.97 * totalMs) continue;
    looks.push({
      when,
      time: { interval: at.prediction.eta, truthMs: totalMs - at.elapsedMs },
      downtime: { interval: at.prediction.downtime, truthMs: downtimeMs },
      prediction: at.prediction,
    });
  }
  const outcome = report.outcome === 'failed' ? (report.error?.code ?? 'failed') : report.outcome;
  return { seed, outcome, throttleMax, totalMs, downtimeMs, estimate, looks, fractions };
}

function slowRegister(environment: VirtualEnvironment, callMs: number): OwnershipRegister {
  const inner = memoryRegister();
  return {
    claim: async (...args) => {
      await delay(environment, callMs);
      return inner.claim(...args);
    },
    read: async (vmId) => {
      await delay(environment, callMs);
      return inner.read(vmId);
    },
  };
}

/** Of what was said at one moment: how many intervals hold the truth, and how wide they are. */
export interface Calibration {
  readonly count: number;
  /** The share that holds the truth, 0 to 1. */
  readonly holds: number;
  /** Truths below the interval, and above it. */
  readonly below: number;
  readonly above: number;
  /** Upper end over lower end: the median, and the widest. */
  readonly widthMedian: number;
  readonly widthMax: number;
}

/**
 * How well it was said, over the migrations that completed. Those that did not have no time that they took; and one of less than a second is over before progress has
 * said anything of it.
 */
export function calibrationOf(
  results: readonly PredictionResult[],
  when: Look['when'],
  what: 'time' | 'downtime',
): Calibration {
  const said = results
    .filter(({ outcome, totalMs }) => outcome === 'completed' && totalMs >= 1000)
    .flatMap(({ looks }) => looks.filter((look) => look.when === when).map((look) => look[what]));
  const count = said.length;
  const below = said.filter(({ interval, truthMs }) => truthMs < interval.lowMs).length;
  const above = said.filter(({ interval, truthMs }) => truthMs > interval.highMs).length;
  const widths = said.map(({ interval }) => interval.highMs / interval.lowMs).sort((a, b) => a - b);
  return {
    count,
    holds: count === 0 ? 1 : (count - below - above) / count,
    below,
    above,
    widthMedian: widths[Math.floor(count / 2)] ?? 1,
    widthMax: widths.at(-1) ?? 1,
  };
}
