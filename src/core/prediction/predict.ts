import type { Interval, Prediction } from '../../interfaces/migration.ts';
import { type Forecast, type ForecastInputs, forecast } from './forecast.ts';
import { scaled } from './working-set.ts';

/** By how much figures may be off, as factors of 1 or more: the truth lies from a part to a multiple of what was measured, nine times of ten. */
export interface Doubts {
  /** What the link carries. */
  readonly link: number;
  /** What the guest dirties and writes. */
  readonly guest: number;
  /** What there is to send, and how fast disks are. */
  readonly content: number;
  /** What compression saves. */
  readonly compression: number;
  /** What hypervisors take for their steps, and registers. */
  readonly steps: number;
  /** How much device state there is. */
  readonly state: number;
  /** Whatever else: of the rest as a whole, and of the downtime. */
  readonly rest: number;
  readonly downtime: number;
}

/** What is to come, and what is certain by now. */
export interface Predicted extends Omit<Prediction, 'total'> {
  /** From now to the end. */
  readonly rest: Interval;
  readonly likely: Forecast;
}

/** By how much the figures may be off, measured before a migration or on its way. */
export const usualDoubts: Doubts = {
  link: 1.15,
  guest: 1.15,
  content: 1.1,
  compression: 1.3,
  steps: 1.6,
  state: 1.4,
  rest: 1.25,
  downtime: 1.6,
};

/** No interval is wider: what may be ten times as long says nothing to anybody. */
const widthMax = 3;
/** Of one that would be wider, so much of what is too much is left out at the lower end, the rest at the upper one: little that can be late is. */
const leftOutBelow = 1 / 3;
/** The last flight after lost packets, or over connections that begin slowly. */
const slowRoundTripsMax = 2;
/** What a migration that is as good as over may still take. */
const leastMs = 1;

/**
 * Intervals around a forecast: the lower end is that of a migration for which all goes well within the doubts, the upper end one of which
 * nothing does. Never wider than three to one.
 */
export function predict(inputs: ForecastInputs, doubts: Doubts): Predicted {
  const likely = forecast(inputs);
  const quick = forecast(withDoubts(inputs, doubts, -1));
  const slow = forecast(withDoubts(inputs, doubts, 1));
  // How long it takes until it fails is of no use to anybody where it may well end.
  const expected = likely.converges || !quick.converges ? likely : quick;
  const around = (of: (result: Forecast) => number, doubt: number) =>
    interval(of(quick) / doubt, of(expected), of(slow) * doubt);
  return {
    rest: around(({ restMs }) => restMs, doubts.rest),
    downtime: around(({ downtimeMs }) => downtimeMs, doubts.downtime),
    converges: !likely.converges ? 'no' : likely.throttle > 0 ? 'throttled' : 'yes',
    throttle: likely.throttle,
    likely,
  };
}

/** `ms` more than an interval. */
export function later({ lowMs, highMs }: Interval, ms: number): Interval {
  return { lowMs: lowMs + ms, highMs: highMs + ms };
}

/** From `low` to `high`, both put right by `likely`; and if that is too wide, a part of it that holds `likely`. */
function interval(low: number, likely: number, high: number): Interval {
  // What would never end if all went badly says no more than that it may take long.
  const lowMs = Math.max(leastMs, Math.min(likely, Math.max(low, likely / widthMax)));
  const highMs = Math.max(lowMs, likely, Math.min(high, likely * widthMax));
  if (highMs <= widthMax * lowMs) return { lowMs, highMs };
  const leastLowMs = lowMs + leftOutBelow * (highMs / widthMax - lowMs);
  return { lowMs: leastLowMs, highMs: widthMax * leastLowMs };
}

/** Everything better (-1) or worse (1) than it looks. */
function withDoubts(inputs: ForecastInputs, doubts: Doubts, sign: -1 | 1): ForecastInputs {
  const more = (value: number, doubt: number) => (sign > 0 ? value * doubt : value / doubt);
  const less = (value: number, doubt: number) => (sign > 0 ? value / doubt : value * doubt);
  return {
    ...inputs,
    setupMs: more(inputs.setupMs, doubts.steps),
    disks: inputs.disks.map((disk) => ({
      restBytes: more(disk.restBytes, doubts.content),
      guestBytesPerSecond: more(disk.guestBytesPerSecond, doubts.guest),
      bytesPerSecondMax:
        disk.bytesPerSecondMax === undefined ? undefined : less(disk.bytesPerSecondMax, doubts.content),
    })),
    passRestBytes: more(inputs.passRestBytes, doubts.content),
    workingSet: scaled(inputs.workingSet, sign > 0 ? doubts.guest : 1 / doubts.guest),
    gain: 1 + less(inputs.gain - 1, doubts.compression),
    diskGain: 1 + less(inputs.diskGain - 1, doubts.compression),
    linkBytesPerSecond: less(inputs.linkBytesPerSecond, doubts.link),
    flushMs: more(inputs.flushMs, doubts.steps),
    hypervisorMs: more(inputs.hypervisorMs, doubts.steps),
    auditMs: more(inputs.auditMs, doubts.steps),
    stateBytes: more(inputs.stateBytes, doubts.state),
    slowRoundTrips: sign > 0 ? slowRoundTripsMax : 0,
  };
}
