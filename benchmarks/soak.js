/**
 * Many migrations in a row: a guest under QEMU (no KVM) goes on and on, each time to a new QEMU, with
 * `longhaul send` and `receive` as processes of their own. It writes to its disks in parallel, small and
 * large, at any block and over each other, and dirties memory. After each move it reads all that it ever
 * wrote, and its images are compared with those that it has left, byte by byte, as they were before it ran
 * there: see test/cli/support/whole-move.ts. One chain for each kind of disks.
 *
 * Uses the sources as they are, unless told otherwise, and the tests' guest: `npm run setup:qemu`.
 */
import { availableParallelism, loadavg } from 'node:os';
import { bundle } from './support/bundle.js';
import { median } from './support/table.js';
import { readOptions, refuse } from './wan/options.js';

const usage = `Usage: node benchmarks/soak.js [options]

  --count N      migrations, over all disks: 1 to 100000 (default 50)
  --disks LIST   kinds of disks, with commas between: raw, qcow2, two (one of each) and odd (one of each,
                 of odd sizes) (default: all of them)
  --mbit LIST    links in Mbit/s that are taken in turn, with commas between; 0 is the machine's own:
                 0 to 100000 (default 0,400)
  --seed N       of the guests' writes (default 1)
  --program FILE the command-line program (default: built from the sources)
  --help         this text

A migration that fails is told and counted, and its chain starts anew with a fresh guest.

Exit code: 0 if all went well, 1 if one did not, 2 if the options are wrong or there is no QEMU for it.
`;

const given = readOptions(usage, {
  count: '50',
  disks: 'raw,qcow2,two,odd',
  mbit: '0,400',
  seed: '1',
  program: undefined,
});
const count = given.whole('count', 1, 100_000);
const links = given.numbers('mbit', 0, 100_000);
const seed = given.whole('seed', 0, 2 ** 31);
const program = given.text('program');
const kinds = (given.text('disks') ?? '').split(',');

/**
 * @typedef {import('../test/cli/support/guest-chain.ts').GuestChain} Chain
 * @typedef {import('../test/cli/support/whole-move.ts').WholeMove} Move
 */

const support = await bundle({
  chain: 'test/cli/support/guest-chain.ts',
  shapes: 'test/cli/support/chain-shapes.ts',
  guest: 'test/qemu/support/guest.ts',
});
/** @type {Chain | undefined} */
let chain;
/** Ended by a signal, it leaves nothing running either. @type {string | undefined} */
let interrupted;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    interrupted = signal;
    void chain?.[Symbol.asyncDispose]();
  });
}
try {
  /** @type {typeof import('../test/cli/support/guest-chain.ts')} */
  const { GuestChain } = await import(support.paths.chain);
  /** @type {typeof import('../test/cli/support/chain-shapes.ts')} */
  const { chainShapes } = await import(support.paths.shapes);
  /** @type {typeof import('../test/qemu/support/guest.ts')} */
  const { qemuAvailable } = await import(support.paths.guest);
  const shapes = kinds.map((kind) => {
    if (!Object.hasOwn(chainShapes, kind)) refuse(`--disks: there is no ${kind}\n\n${usage}`);
    return chainShapes[/** @type {keyof typeof chainShapes} */ (kind)];
  });
  const qemu = qemuAvailable();
  if (!qemu.available) refuse(qemu.why);

  console.log(`${count} migrations in a row, ${new Date().toISOString()}`);
  const load = (loadavg()[0] ?? 0).toFixed(1);
  console.log(
    `node ${process.version}, ${availableParallelism()} cores, load ${load} at the start; no KVM\n`,
  );
  /** @type {Move[]} */
  const moves = [];
  let failed = 0;
  for (const [index, shape] of shapes.entries()) {
    // As even as it can be.
    const due =
      Math.floor((count * (index + 1)) / shapes.length) - Math.floor((count * index) / shapes.length);
    for (let number = 1; number <= due && interrupted === undefined; number++) {
      const mbit = links[(number - 1) % links.length] ?? 0;
      const heading = `${shape.name}, ${number} of ${due}${mbit === 0 ? '' : `, ${mbit} Mbit/s`}`;
      try {
        chain ??= await GuestChain.start(shape, seed + index, program);
        const move = await chain.move(mbit);
        moves.push(move);
        console.log(`${heading}: ${describe(move)}`);
      } catch (error) {
        if (interrupted !== undefined) break;
        failed++;
        console.log(`${heading}: FAILED: ${error instanceof Error ? error.message : error}`);
        await chain?.[Symbol.asyncDispose]();
        chain = undefined;
      }
    }
    await chain?.[Symbol.asyncDispose]();
    chain = undefined;
  }
  console.log(`\n${moves.length} of ${count} arrived whole, ${failed} failed`);
  if (moves.length > 0) {
    const writes = moves.reduce((sum, { report }) => sum + report.guestWrites.mirrored, 0);
    const downtime = median(moves.map(({ downtimeMs }) => downtimeMs)).toFixed(0);
    const silences = moves.map(({ silenceMs }) => silenceMs);
    console.log(
      `${writes} guest writes mirrored; median downtime ${downtime} ms; silence ${median(silences).toFixed(0)} ms, ` +
        `at most ${Math.max(...silences).toFixed(0)} ms`,
    );
  }
  if (moves.length < count) process.exitCode = 1;
} finally {
  await chain?.[Symbol.asyncDispose]();
  await support.remove();
}

/** @param {Move} move */
function describe({ report, totalMs, downtimeMs, silenceMs }) {
  const { mirrored, setBack } = report.guestWrites;
  const [total, downtime, silence] = [totalMs, downtimeMs, silenceMs].map((ms) => `${ms.toFixed(0)} ms`);
  const times = `total ${total}, downtime ${downtime}, silence ${silence}`;
  return `${times}; ${report.rounds} rounds, ${mirrored} writes mirrored, ${setBack} set back; whole, equal`;
}
