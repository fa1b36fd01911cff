import type { Phase, Progress, ProgressPrediction } from '../index.ts';

/** How far one stream has come, as it is shown. */
export interface StreamState {
  readonly name: string;
  /**
   * 0 to 1; never falls. A guest may write faster than is copied, and what it sets back shows in `leftBytes`
   * alone.
   */
  readonly fraction: number;
  readonly leftBytes: number;
  /** How fast the bytes left become fewer, over about the last second; never negative. */
  readonly bytesPerSecond: number;
}

interface Sample {
  readonly elapsedMs: number;
  readonly leftBytes: ReadonlyMap<string, number>;
}

/** A migration's progress as it is shown: what `progress` and `phase` events come to. */
export interface ProgressState {
  readonly phase: Phase;
  readonly elapsedMs: number;
  readonly transferredBytes: number;
  readonly bytesPerSecond: number;
  readonly rounds: number;
  readonly throttle: number;
  /** Of all of it: see {@link Progress.fraction}. */
  readonly fraction: number;
  readonly prediction: ProgressPrediction | undefined;
  readonly streams: readonly StreamState[];
  /** What rates are taken from. */
  readonly samples: readonly Sample[];
}

/** Over how long a stream's rate is taken. */
const rateMs = 1000;

/** Before anything has happened. */
export const initialProgress: ProgressState = {
  phase: 'idle',
  elapsedMs: 0,
  transferredBytes: 0,
  bytesPerSecond: 0,
  rounds: 0,
  throttle: 0,
  fraction: 0,
  prediction: undefined,
  streams: [],
  samples: [],
};

/** The state after a `progress` event. */
export function advance(state: ProgressState, progress: Progress): ProgressState {
  const { phase, elapsedMs, transferredBytes, bytesPerSecond, rounds, throttle } = progress;
  const left = new Map(
    progress.streams.map(({ name, totalBytes, doneBytes }) => [name, totalBytes - doneBytes]),
  );
  // One that is older than the span, so that a rate is always over all of it.
  const recent = state.samples.findLastIndex((sample) => elapsedMs - sample.elapsedMs >= rateMs);
  const samples = state.samples.slice(Math.max(0, recent));
  const oldest = samples[0];
  const streams = progress.streams.map(({ name, totalBytes, doneBytes }): StreamState => {
    const before = state.streams.find((stream) => stream.name === name)?.fraction ?? 0;
    const leftBytes = left.get(name) ?? 0;
    const spanMs = oldest === undefined ? 0 : elapsedMs - oldest.elapsedMs;
    const copied = (oldest?.leftBytes.get(name) ?? leftBytes) - leftBytes;
    return {
      name,
      fraction: Math.max(before, totalBytes > 0 ? Math.min(1, doneBytes / totalBytes) : 1),
      leftBytes,
      bytesPerSecond: spanMs > 0 && phase !== 'done' ? Math.max(0, (copied / spanMs) * 1000) : 0,
    };
  });
  return {
    phase,
    elapsedMs,
    transferredBytes,
    bytesPerSecond,
    rounds,
    throttle,
    fraction: progress.fraction,
    prediction: progress.prediction,
    streams,
    samples: [...samples, { elapsedMs, leftBytes: left }],
  };
}

/** The state after a `phase` event. */
export function enter(state: ProgressState, phase: Phase): ProgressState {
  if (phase !== 'done') return { ...state, phase };
  return { ...state, phase, streams: state.streams.map((stream) => ({ ...stream, bytesPerSecond: 0 })) };
}
