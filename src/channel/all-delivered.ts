/** A lane as it stands: in how many ms it will have delivered what is on its way on it, and what it carries. */
export interface LaneOutlook {
  readonly ms: number;
  readonly bytesPerMs: number;
}

/**
 * In how many ms lanes will have delivered what is on their way and `queuedBytes` more, if those go to them so that all that take any are done at the same time. `lanes`: the first to be done first;
 * Infinity where there are none. Each joins in as soon as it has delivered what it has, as long as something is left for it then.
 */
export function allDeliveredMs(lanes: Iterable<LaneOutlook>, queuedBytes: number): number {
  let allMs = Number.POSITIVE_INFINITY;
  let bytesPerMs = 0;
  // What those so far carry by the end.
  let bytes = queuedBytes;
  for (const next of lanes) {
    if (next.ms >= allMs) break;
    bytesPerMs += next.bytesPerMs;
    bytes += next.bytesPerMs * next.ms;
    allMs = bytes / bytesPerMs;
  }
  return allMs;
}
