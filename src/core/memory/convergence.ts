export interface ConvergenceStatistics {
  readonly round: number; readonly roundBytes: number; readonly roundMs: number; readonly dirtyBytes: number | undefined;
  readonly bytesPerSecond: number | undefined; readonly backlogBytes: number; readonly diskRestBytes: number;
  readonly stateBytes: number; readonly fixedMs: number; readonly throttle: number; readonly history: readonly number[];
}
export function convergence(s: ConvergenceStatistics, p: { downtimeMsMax: number; roundsMax: number }): { decision: 'continue' | 'throttle' | 'switchover' | 'fail'; expectedDowntimeMs: number; throttle: number; reason: string } {
  const rest = (s.dirtyBytes ?? s.roundBytes) + s.backlogBytes + s.diskRestBytes + s.stateBytes;
  const expected = s.fixedMs + (rest / (s.bytesPerSecond ?? 1e9)) * 1000;
  return { decision: expected <= p.downtimeMsMax ? 'switchover' : s.round >= p.roundsMax ? 'fail' : 'continue', expectedDowntimeMs: expected, throttle: 0, reason: 'stub' };
}
