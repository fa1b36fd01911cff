import type { DistanceCell, DistanceResult, WriteStatistics } from './distance-cell.ts';

const columns = [
  'RTT ms',
  'loss %',
  'total s',
  'over ideal',
  'downtime ms',
  'rounds',
  'throttle',
  'writes/s before → during',
  'median ms',
  'p99 ms',
  'outcome',
] as const;

/** Tables in Markdown: one for each VM, guest, bandwidth and congestion control, a line for each cell. */
export function distanceTable(results: readonly DistanceResult[]): string {
  const ordered = [...results].sort((one, other) => compare(one.cell, other.cell));
  const lines: string[] = [];
  let last = '';
  for (const result of ordered) {
    const title = titleOf(result.cell);
    if (title !== last) {
      lines.push(
        ...(last === '' ? [] : ['']),
        `### ${title}`,
        '',
        row(columns),
        `|${columns.map((name) => (name === 'outcome' ? ' --- |' : ' ---: |')).join('')}`,
      );
    }
    last = title;
    lines.push(row(cellsOf(result)));
  }
  return `${lines.join('\n')}\n`;
}

function row(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}

function titleOf(cell: DistanceCell): string {
  const { memoryGiB, diskGiB, guest, rateGbit, congestion, socketMiB, windowMiB, seed } = cell;
  const sizes = `${memoryGiB} GiB of memory, ${diskGiB} GiB of disk`;
  const buffers = `sockets of ${socketMiB} MiB, a window of ${windowMiB} MiB`;
  return `Simulated: ${rateGbit} Gbit/s, ${guest}, ${sizes} (${congestion}, ${buffers}, seed ${seed})`;
}

const congestions = ['bbr', 'cubic', 'reno'];
const guests = ['idle', 'oltp', 'dirtier'];

function compare(one: DistanceCell, other: DistanceCell): number {
  const of = (cell: DistanceCell) => [
    congestions.indexOf(cell.congestion),
    -cell.diskGiB,
    cell.seed,
    cell.socketMiB,
    cell.windowMiB,
    cell.memoryGiB,
    guests.indexOf(cell.guest),
    cell.rateGbit,
    cell.lossPercent,
    cell.rttMs,
  ];
  const others = of(other);
  for (const [index, value] of of(one).entries()) {
    const difference = value - (others[index] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function cellsOf(result: DistanceResult): readonly string[] {
  const { cell, before, during } = result;
  const completed = result.outcome === 'completed';
  const pair = (of: (writes: WriteStatistics) => number, digits: number) =>
    before === undefined || during === undefined
      ? '–'
      : `${of(before).toFixed(digits)} → ${of(during).toFixed(digits)}`;
  return [
    `${cell.rttMs}`,
    `${cell.lossPercent}`,
    (result.totalMs / 1000).toFixed(1),
    completed ? result.overIdeal.toFixed(2) : '–',
    completed ? result.downtimeMs.toFixed(0) : '–',
    `${result.rounds}`,
    result.throttleMax.toFixed(2),
    pair(({ perSecond }) => perSecond, 1),
    pair(({ medianMs }) => medianMs, 2),
    pair(({ p99Ms }) => p99Ms, 2),
    completed && !result.equal ? '**differs**' : result.outcome,
  ];
}

/** Colours that can be read on white and on black alike. */
const ink = '#808a94';
const lineColours = ['#2f81f7', '#e16f24', '#c4539b', '#4c9a52'];

const panelWidth = 330;
const panelHeight = 190;
const margin = { left: 58, top: 34, right: 18, bottom: 44 };

interface Panel {
  readonly title: string;
  /** By loss. */
  readonly lines: ReadonlyMap<number, readonly (readonly [number, number])[]>;
}

/** An SVG: total time over the ideal, and downtime, against RTT, a line for each rate of loss. */
export function distanceChart(results: readonly DistanceResult[]): string {
  const drawn = mainResults(results);
  const losses = unique(drawn.map(({ cell }) => cell.lossPercent));
  const rates = unique(drawn.map(({ cell }) => cell.rateGbit));
  const rttMax = Math.max(1, ...drawn.map(({ cell }) => cell.rttMs));
  const panels = rates.flatMap((rate) => {
    const those = drawn.filter(({ cell }) => cell.rateGbit === rate);
    return [
      panelOf(`Total time over ideal, ${rate} Gbit/s`, those, ({ overIdeal }) => overIdeal),
      panelOf(`Downtime in ms, ${rate} Gbit/s`, those, ({ downtimeMs }) => downtimeMs),
    ];
  });
  const legend = losses.map((loss, index) => {
    const x = margin.left + 130 * index;
    return (
      `<path d="M${x} 18h22" stroke="${colour(index)}" stroke-width="2.5"/>` +
      `<text x="${x + 28}" y="22" fill="${ink}">loss ${loss} %</text>`
    );
  });
  const width = 2 * panelWidth;
  const height = 34 + panelHeight * Math.ceil(panels.length / 2);
  const drawings = panels.map((panel, index) => {
    const at = `translate(${(index % 2) * panelWidth} ${34 + Math.floor(index / 2) * panelHeight})`;
    return `<g transform="${at}">${drawPanel(panel, losses, rttMax)}</g>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" ` +
      `height="${height}" font-family="sans-serif" font-size="12" fill="none" role="img">`,
    '<title>Simulated: total time over the ideal, and downtime, against round trip time</title>',
    ...legend,
    ...drawings,
    '</svg>',
    '',
  ].join('\n');
}

/** Those of one VM, and of the guest that writes if it is there: of whichever there are most. */
function mainResults(results: readonly DistanceResult[]): readonly DistanceResult[] {
  const writing = results.filter(({ cell }) => cell.guest === 'oltp');
  const groups = new Map<string, DistanceResult[]>();
  for (const result of writing.length > 0 ? writing : results) {
    if (result.outcome !== 'completed') continue;
    const { rttMs: _rtt, lossPercent: _loss, rateGbit: _rate, ...others } = result.cell;
    const key = JSON.stringify(others, Object.keys(others).sort());
    groups.set(key, [...(groups.get(key) ?? []), result]);
  }
  return [...groups.values()].reduce((most, group) => (group.length > most.length ? group : most), []);
}

function unique(values: readonly number[]): readonly number[] {
  return [...new Set(values)].sort((one, other) => one - other);
}

function panelOf(
  title: string,
  results: readonly DistanceResult[],
  of: (result: DistanceResult) => number,
): Panel {
  const lines = new Map<number, (readonly [number, number])[]>();
  for (const result of results) {
    const { lossPercent, rttMs } = result.cell;
    const line = lines.get(lossPercent) ?? [];
    line.push([rttMs, of(result)]);
    lines.set(lossPercent, line);
  }
  return { title, lines };
}

function drawPanel({ title, lines }: Panel, losses: readonly number[], rttMax: number): string {
  const innerWidth = panelWidth - margin.left - margin.right;
  const innerHeight = panelHeight - margin.top - margin.bottom;
  const step = niceStep(Math.max(...[...lines.values()].flat().map(([, value]) => value)) / 4);
  const top = step * Math.ceil(Math.max(...[...lines.values()].flat().map(([, value]) => value)) / step);
  const x = (rtt: number) => round(margin.left + (innerWidth * rtt) / rttMax);
  const y = (value: number) => round(margin.top + innerHeight * (1 - value / top));
  const parts = [
    `<text x="${margin.left}" y="${margin.top - 14}" fill="${ink}" font-weight="bold">${title}</text>`,
  ];
  for (let value = 0; value <= top + step / 2; value += step) {
    parts.push(
      `<path d="M${margin.left} ${y(value)}h${innerWidth}" stroke="${ink}" stroke-opacity="0.3"/>`,
      `<text x="${margin.left - 8}" y="${y(value) + 4}" fill="${ink}" text-anchor="end">` +
        `${round(value)}</text>`,
    );
  }
  for (let quarter = 0; quarter <= 4; quarter++) {
    const rtt = (rttMax * quarter) / 4;
    parts.push(
      `<text x="${x(rtt)}" y="${panelHeight - margin.bottom + 16}" fill="${ink}" text-anchor="middle">` +
        `${round(rtt)}</text>`,
    );
  }
  parts.push(
    `<text x="${margin.left + innerWidth / 2}" y="${panelHeight - margin.bottom + 33}" fill="${ink}" ` +
      'text-anchor="middle">round trip time in ms</text>',
  );
  for (const [index, loss] of losses.entries()) {
    const points = [...(lines.get(loss) ?? [])].sort(([one], [other]) => one - other);
    if (points.length === 0) continue;
    const path = points.map(([rtt, value], at) => `${at === 0 ? 'M' : 'L'}${x(rtt)} ${y(value)}`).join('');
    parts.push(`<path d="${path}" stroke="${colour(index)}" stroke-width="2.5" stroke-linejoin="round"/>`);
    for (const [rtt, value] of points) {
      parts.push(`<circle cx="${x(rtt)}" cy="${y(value)}" r="3" fill="${colour(index)}"/>`);
    }
  }
  return parts.join('\n');
}

function colour(index: number): string {
  return lineColours[index % lineColours.length] ?? ink;
}

/** The next of 1, 2, 5, 10, 20, ... that is not below. */
function niceStep(least: number): number {
  let unit = 0.01;
  while (unit * 10 <= least) unit *= 10;
  return ([1, 2, 5, 10].find((factor) => factor * unit >= least) ?? 10) * unit;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
