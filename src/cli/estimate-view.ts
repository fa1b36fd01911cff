/** How an estimate looks: from its figures to lines of text. */
import type { Estimate } from '../index.ts';
import { type Row, renderRows } from './report-view.ts';
import { formatBytes, formatInterval, formatMs, formatRate, printable } from './units.ts';

/** What an operator wants to know before a VM is moved: whether it can be, then what that takes. */
export function renderEstimate(estimate: Estimate): readonly string[] {
  const { total, downtime, bytes, roundTripMs, linkBytesPerSecond, dirtyBytesPerSecond } = estimate;
  const rows: Row[] = [
    ['total', formatInterval(total)],
    ['downtime', formatInterval(downtime)],
    ['to send', `about ${formatBytes(bytes)}`],
    ['link', formatRate(linkBytesPerSecond)],
    ['round trip', formatMs(roundTripMs)],
    ['memory dirtied', formatRate(dirtyBytesPerSecond)],
    ...Object.entries(estimate.diskBytesPerSecond).map(
      ([id, rate]): Row => [`${printable(id)} written`, formatRate(rate)],
    ),
  ];
  return [verdict(estimate), '', ...renderRows(rows)];
}

function verdict({ converges, throttle }: Estimate): string {
  const percent = Math.round(throttle * 100);
  switch (converges) {
    case 'yes':
      return 'It can be moved, with its guest as it is.';
    case 'throttled':
      return `It can be moved, with its guest slowed by up to ${percent}%.`;
    case 'no':
      return 'It cannot be moved like this: its guest writes faster than the link carries, also if it is slowed as far as is allowed.';
  }
}
