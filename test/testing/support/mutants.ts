import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build } from 'tsup';

/** A bug that was made on purpose. */
export interface Mutant {
  readonly name: string;
  /** The file, within `src`. */
  readonly file: string;
  /** What is replaced, and stands there once, and by what. */
  readonly edits: readonly (readonly [string, string])[];
  /** What is in every scenario, beside what is always drawn. Default: nothing. */
  readonly draw?: 'storage' | 'outages' | 'switchover';
  /** The first seed that catches it. */
  readonly seed: number;
  /** Rules that may catch it. */
  readonly rules: readonly string[];
}

export const mutants: readonly Mutant[] = [
  {
    name: 'guest writes that waited for a bulk number are mirrored in reverse',
    file: 'core/storage/bulk-copy.ts',
    edits: [
      [
        'for (const write of regions.copyNumbered(range)) mirror(write);',
        'for (const write of [...regions.copyNumbered(range)].reverse()) mirror(write);',
      ],
    ],
    seed: 656,
    rules: ['equal', 'audited', 'excused'],
  },
  {
    name: 'what was read of a disk is recycled before the peer has it',
    file: 'core/storage/bulk-copy.ts',
    edits: [
      [
        "stream.pushAll('bulk', items, () => disk.recycle?.(chunks));",
        "stream.pushAll('bulk', items, () => {});\n    disk.recycle?.(chunks);",
      ],
    ],
    seed: 2,
    rules: ['progress', 'settles', 'recovers', 'equal', 'audited'],
  },
  {
    name: 'the bulk number is taken before the read',
    file: 'core/storage/bulk-copy.ts',
    edits: [
      [
        'const chunks = await disk.read(offset, length, { signal });',
        'this.#numbered({ offset, length });\nconst chunks = await disk.read(offset, length, { signal });',
      ],
      ['disk.recycle?.(chunks));\n    this.#numbered({ offset, length });', 'disk.recycle?.(chunks));'],
    ],
    seed: 88,
    rules: ['equal', 'sane', 'audited', 'excused'],
  },
  {
    name: 'what a guest writes where the disk is copied is not mirrored',
    file: 'core/storage/disk-sender.ts',
    edits: [["case 'mirror':\n        this.#mirror(write);", "case 'mirror':\n        this.#letGo(write);"]],
    seed: 4,
    rules: ['equal', 'audited', 'excused'],
  },
  {
    name: 'a dirty page is dropped',
    file: 'core/memory/memory-sender.ts',
    edits: [['splitIntoItems(ranges, ', 'splitIntoItems(this.#rounds > 0 ? ranges.slice(1) : ranges, ']],
    seed: 4,
    rules: ['equal', 'audited', 'excused'],
  },
  {
    name: 'of overlapping items the newer does not wait for the older',
    file: 'core/storage/newest-wins.ts',
    edits: [
      ['after: [...after], state', 'after: [], state'],
      ['return [...after];', 'return [];'],
    ],
    seed: 14,
    rules: ['contract', 'equal', 'sane'],
  },
  {
    name: 'an item that was overtaken in part is not written at all',
    file: 'core/storage/newest-wins.ts',
    edits: [
      ['item.parts : item.parts.flatMap((part) => this.#stillClaimed(number, part))', 'item.parts : []'],
    ],
    seed: 98,
    rules: ['equal'],
  },
  {
    name: 'GO is sent before given is claimed',
    file: 'core/handover/commit.ts',
    edits: [
      ['options.give();', ''],
      [
        "const claiming = register.claim(vmId, epoch, 'source'",
        "options.give();\nconst claiming = register.claim(vmId, epoch, 'source'",
      ],
    ],
    seed: 11,
    rules: ['one-runs', 'owner-runs', 'truth', 'somewhere'],
  },
  {
    name: 'after commit the source resumes though nothing was declined',
    file: 'core/source.ts',
    edits: [["if (error.code === 'declined') {", "if (error.code !== 'internal') {"]],
    seed: 7,
    rules: ['one-runs', 'owner-runs', 'truth'],
  },
  {
    name: 'the destination starts though declined stands',
    draw: 'switchover',
    file: 'core/destination.ts',
    edits: [
      [
        "if (verdictForDestination(claims, this.#epoch) === 'start') return;",
        'if (claims.length > 0) return;',
      ],
    ],
    seed: 351,
    rules: ['hooks', 'one-runs', 'owner-runs', 'truth'],
  },
  {
    name: 'FINAL is believed on arrival',
    file: 'core/verification.ts',
    edits: [
      ['await raceAbort(Promise.all(applied), signal);', 'Promise.all(applied).catch(() => {});'],
      ['if (end === undefined || stream.appliedThrough', 'if (false && stream.appliedThrough'],
    ],
    seed: 1,
    rules: ['equal', 'contract', 'sane', 'progress'],
  },
  {
    name: 'the guest is not resumed after a failed switchover',
    file: 'core/source.ts',
    edits: [['() => this.#sealOver(), () => this.#vm.resume()]', '() => this.#sealOver()]']],
    seed: 11,
    rules: ['restored', 'truth', 'somewhere'],
  },
  {
    name: 'the guest is resumed while a seal is under way',
    file: 'core/source.ts',
    edits: [['() => this.#sealOver(), ', '']],
    seed: 229,
    rules: ['contract'],
  },
  {
    name: 'the source does not let go of its VM after a failure',
    file: 'core/source.ts',
    edits: [['() => this.#vm.detach(),', '']],
    seed: 1,
    rules: ['restored', 'progress'],
  },
  {
    name: 'after a failed switchover the guest is resumed before the taps are back',
    file: 'core/storage/disk-sender.ts',
    edits: [
      [
        'await this.#tap?.finish({ signal });',
        'await this.#tap?.finish({ signal });\nawait this.#tap?.remove();\nthis.#tap = undefined;',
      ],
      [
        'this.#bulk.guestStands(false);',
        'this.#bulk.guestStands(false);\nvoid this.disk.flush().then(() => this.disk.tap(this.#handler)).then((tap) => { this.#tap = tap; }, () => {});',
      ],
    ],
    seed: 18,
    rules: ['tapped', 'equal', 'audited', 'excused'],
  },
  {
    name: 'a tap that was finished comes back only with the first write of the guest that runs on',
    file: 'testing/sim/guest-disk.ts',
    edits: [
      [
        'if (this.#gap !== undefined) throw this.#gap;',
        'if (this.#gap !== undefined) throw this.#gap;\nthis.late = true;',
      ],
      [
        'if (this.#gap !== undefined || this.#removed) return undefined;',
        'if (this.#gap !== undefined || this.#removed) return undefined;\nif (this.late && !this.#host.stunned()) { this.late = false; return undefined; }',
      ],
    ],
    seed: 193,
    rules: ['equal', 'audited', 'excused'],
  },
  {
    name: 'what comes after the end of a switchover is applied as it comes',
    file: 'channel/receive-stream.ts',
    edits: [['if (number > this.#end) this.#beyond.push(item);', 'if (number < 0) this.#beyond.push(item);']],
    seed: 454,
    rules: ['contract', 'sane', 'equal'],
  },
  {
    name: 'a silent connection is not noticed',
    file: 'channel/channel.ts',
    edits: [
      ['if (this.#silentMs >= silenceMsMax)', 'if (this.#silentMs < 0)'],
      [
        'return lane.silentLooks() * pingMs >= patienceMs;',
        'return lane.silentLooks() < 0 && patienceMs > 0;',
      ],
    ],
    seed: 15,
    rules: ['settles', 'recovers'],
  },
  {
    name: 'the frames of a lost lane are not sent again',
    draw: 'outages',
    file: 'channel/lane-set.ts',
    edits: [['this.#again = this.#again.concat(frames);', 'for (const frame of frames) frame.release();']],
    seed: 355,
    rules: ['settles', 'recovers', 'needless', 'progress', 'truth'],
  },
  {
    name: 'messages that were on their way when control was lost are not sent again',
    file: 'channel/control-link.ts',
    edits: [['    this.#sent = 0;\n', '    this.#sent = this.#kept.length;\n']],
    seed: 258,
    rules: ['settles', 'recovers', 'needless', 'progress', 'sane'],
  },
  {
    name: 'what arrives twice is taken twice',
    file: 'channel/receive-stream.ts',
    edits: [
      [
        'if (!this.#received.add(frame.number)) {\n      frame.release();\n      return;\n    }',
        'this.#received.add(frame.number);',
      ],
    ],
    seed: 558,
    rules: ['sane', 'contract', 'equal', 'needless'],
  },
  {
    name: 'a tap loses writes, and nobody is told, not even the oracle',
    file: 'testing/sim/guest-disk.ts',
    edits: [
      [
        "if (fault?.effect === 'drop') return undefined;",
        "if (fault?.effect === 'drop' || generation % 5 === 0) return undefined;",
      ],
    ],
    seed: 4,
    rules: ['equal', 'audited', 'excused'],
  },
  {
    name: 'a digest is believed after the region was mirrored',
    file: 'core/storage/block-digests.ts',
    edits: [['    this.#over.setRange(first, end);', '    return;']],
    seed: 214,
    rules: ['equal', 'audited', 'excused'],
  },
  {
    name: 'a part of what was taken of the dirty log is forgotten',
    draw: 'storage',
    file: 'core/storage/disk-sender.ts',
    edits: [['for (const range of ranges) {', 'for (const range of ranges.slice(1)) {']],
    seed: 13,
    rules: ['equal', 'copied', 'audited', 'excused'],
  },
  {
    name: 'the dirty log is not taken once more with the guest stunned',
    draw: 'storage',
    file: 'core/storage/disk-sender.ts',
    edits: [['    await this.takeDirty({ signal });\n', '']],
    seed: 242,
    rules: ['equal', 'copied', 'audited', 'excused'],
  },
  {
    name: 'a range that was set back is not read again',
    draw: 'storage',
    file: 'core/storage/disk-sender.ts',
    edits: [['this.#regions.setBack(range);', '']],
    seed: 13,
    rules: ['equal', 'copied', 'audited', 'excused'],
  },
  {
    name: 'what a guest write that failed has left is not read again',
    draw: 'storage',
    file: 'core/storage/disk-sender.ts',
    edits: [['invalidate: (range) => this.#setRangeBack(range),', 'invalidate: () => {},']],
    seed: 195,
    rules: ['equal', 'copied', 'audited', 'excused'],
  },
  {
    name: 'a disk whose writes nobody sees is copied while the guest runs',
    draw: 'storage',
    file: 'core/storage/disk-sender.ts',
    edits: [['onlyStunned: this.isUnseen,', 'onlyStunned: false,']],
    seed: 29,
    rules: ['equal', 'copied', 'audited', 'excused'],
  },
  {
    name: "the guest's write waits for room on the link",
    draw: 'storage',
    file: 'core/storage/disk-sender.ts',
    edits: [['return this.#options.buffer.hold();', 'return this.#options.stream.room();']],
    seed: 75,
    rules: ['prompt'],
  },
  {
    name: 'disks are tapped before the destination has agreed',
    draw: 'storage',
    file: 'core/source.ts',
    edits: [
      ['    for (const disk of this.#disks) await disk.start();\n', ''],
      [
        '    this.#openStreams(channel);\n',
        '    this.#openStreams(channel);\n    for (const disk of this.#disks) await disk.start();\n',
      ],
    ],
    seed: 51,
    rules: ['untouched'],
  },
  {
    name: 'disks are handed over before they are flushed',
    draw: 'storage',
    file: 'core/verification.ts',
    edits: [
      [
        'await raceAbort(Promise.all(disks.map((disk) => disk.flush())), signal);',
        'if (!disksAlone) await raceAbort(Promise.all(disks.map((disk) => disk.flush())), signal);',
      ],
    ],
    seed: 7,
    rules: ['contract'],
  },
  {
    name: 'disks are said to be copied, and are not handed over',
    draw: 'storage',
    file: 'core/destination.ts',
    edits: [
      ['const handing = this.#vm?.handOver() ?? Promise.resolve();', 'const handing = Promise.resolve();'],
    ],
    seed: 7,
    rules: ['truth', 'untouched'],
  },
  {
    name: 'a guest whose disks were copied stays stunned',
    draw: 'storage',
    file: 'core/source.ts',
    edits: [
      [
        'const [problem] = await tidy(this.environment, [() => this.#vm.resume()]);',
        'const [problem]: unknown[] = [];',
      ],
    ],
    seed: 7,
    rules: ['restored', 'truth', 'somewhere'],
  },
  {
    name: 'given is claimed where disks move alone',
    draw: 'storage',
    file: 'core/source.ts',
    edits: [
      [
        "channel.send({ type: 'copied' });",
        "await this.#register.claim(this.#description.vmId, this.#epoch, 'source', 'given');\nchannel.send({ type: 'copied' });",
      ],
    ],
    seed: 7,
    rules: ['copied'],
  },
  {
    name: 'where zeros belong, a disk that does not tell what it holds is left as it is',
    draw: 'storage',
    file: 'core/storage/disk-receiver.ts',
    edits: [
      [
        'if (!extent.zero) await this.disk.writeZeroes(',
        'if (!extent.zero && length < 0) await this.disk.writeZeroes(',
      ],
    ],
    seed: 7,
    rules: ['equal', 'copied', 'audited', 'excused'],
  },
  {
    name: 'a write that failed at the destination is taken for done',
    draw: 'storage',
    file: 'core/storage/disk-receiver.ts',
    edits: [
      [
        'await this.disk.write(offset, content, { signal });',
        'await this.disk.write(offset, content, { signal }).catch(() => {});',
      ],
    ],
    seed: 56,
    rules: ['equal', 'copied', 'contract', 'audited', 'excused'],
  },
  {
    name: 'the destination is taken to be slow with every disk',
    draw: 'storage',
    file: 'core/storage/disk-pace.ts',
    edits: [['return isHeld ? this.#sent.perSecond : undefined;', 'return 1;']],
    seed: 75,
    rules: ['truth', 'needless'],
  },
  {
    name: 'a hook that is late is waited for',
    draw: 'switchover',
    file: 'core/handover/hooks.ts',
    edits: [['await withTimeout(this.#environment, this.#limitMs, running, () => late);', 'await running;']],
    seed: 6,
    rules: ['hooks', 'settles'],
  },
  {
    name: 'a hook that fails keeps the guest from running',
    draw: 'switchover',
    file: 'core/handover/hooks.ts',
    edits: [['this.#problems.push({ text, cause });', 'throw cause;']],
    seed: 6,
    rules: ['hooks', 'settles', 'sane', 'truth', 'needless', 'unhandled'],
  },
  {
    name: 'the hook before the start is called before owner stands',
    draw: 'switchover',
    file: 'core/destination.ts',
    edits: [
      [
        'await this.#claimOwner();\n',
        "await this.#hooks.run('beforeStart', { vmId: this.#vmId(), epoch: this.#epoch });\nawait this.#claimOwner();\n",
      ],
      ["await this.#hooks.run('beforeStart', of);", ''],
    ],
    seed: 6,
    rules: ['hooks'],
  },
  {
    name: 'an audit takes what differs for equal',
    draw: 'switchover',
    file: 'core/audit/audit-checker.ts',
    edits: [
      [
        'return !equalBytes(here.subarray(0, there.byteLength), there);',
        'return here.byteLength < there.byteLength;',
      ],
    ],
    seed: 39,
    rules: ['audited'],
  },
  {
    name: 'an audit of everything leaves out the last unit of each space',
    draw: 'switchover',
    file: 'core/audit/audit-sender.ts',
    edits: [
      [
        'const length = Math.min(auditUnitsMax, count - first);',
        'const length = Math.min(auditUnitsMax, count - first) - 1;',
      ],
    ],
    seed: 1,
    rules: ['audited'],
  },
  {
    name: 'in one flight the destination starts what it has not checked',
    draw: 'switchover',
    file: 'core/destination.ts',
    edits: [['await verification.run(final);\n      this.enter', 'this.enter']],
    seed: 7,
    rules: ['equal', 'contract', 'sane', 'audited'],
  },
  {
    name: 'in one flight FINAL is sent before given is claimed',
    draw: 'switchover',
    file: 'core/source.ts',
    edits: [
      [
        'const [epoch, { watch }] = [this.#epoch, switchover];\n',
        'const [epoch, { watch }] = [this.#epoch, switchover];\nif (this.#inOneFlight) switchover.sendFinal(epoch);\n',
      ],
      ['this.#inOneFlight ? switchover.sendFinal(epoch) :', 'this.#inOneFlight ? undefined :'],
    ],
    seed: 387,
    rules: ['one-runs', 'owner-runs', 'truth'],
  },
  {
    name: 'the downtime that is told leaves out a part',
    draw: 'switchover',
    file: 'core/source.ts',
    edits: [['this.#pauses.end(flightMs);', 'this.#pauses.end(5 * flightMs);']],
    seed: 1,
    rules: ['downtime'],
  },
  {
    name: 'the downtime that is allowed is not looked at',
    file: 'core/memory/convergence.ts',
    edits: [['const fits = expectedDowntimeMs <= policy.downtimeMsMax;', 'const fits = true;']],
    seed: 447,
    rules: ['limits'],
  },
  {
    name: 'the throttle goes beyond its limit',
    file: 'core/memory/throttle-control.ts',
    edits: [['Math.floor(throttleMax * 100 + rounding)', '99']],
    seed: 0,
    rules: ['limits'],
  },
  {
    name: 'a migration whose time is over goes on',
    draw: 'switchover',
    file: 'core/deadline.ts',
    edits: [['if ((this.leftMs ?? 1) > 0 ||', 'if ((this.leftMs ?? 1) > -1e9 ||']],
    seed: 95,
    rules: ['timely'],
  },
];

const cache = new URL('../../../node_modules/.cache/longhaul/', import.meta.url).pathname;
const sources = new URL('../../../src/', import.meta.url).pathname;

/** Builds the simulator's command, with a mutant in it. Resolves to its file. Rejects if what is to be replaced is not there once. */
export async function buildSimulator(mutant: Mutant | undefined, name: string): Promise<string> {
  const outDir = join(cache, name);
  await build({
    config: false,
    silent: true,
    clean: false,
    entry: { simulate: join(sources, 'testing/simulate-cli.ts') },
    format: ['esm'],
    target: 'node20',
    platform: 'node',
    outDir,
    esbuildPlugins:
      mutant === undefined ? [] : [{ name: 'mutant', setup: (esbuild) => mutate(esbuild, mutant) }],
  });
  return join(outDir, 'simulate.js');
}

type Setup = Parameters<
  NonNullable<NonNullable<Parameters<typeof build>[0]['esbuildPlugins']>[number]>['setup']
>[0];

function mutate(esbuild: Setup, { file, edits, name }: Mutant): void {
  const path = join(sources, file);
  esbuild.onLoad({ filter: new RegExp(`${file.replaceAll(/[./]/g, '\\$&')}$`) }, async (args) => {
    if (args.path !== path) return undefined;
    let contents = await readFile(path, 'utf8');
    for (const [from, to] of edits) {
      if (contents.split(from).length !== 2) throw new Error(`${name}: ${file} has not once: ${from}`);
      contents = contents.replace(from, () => to);
    }
    return { contents, loader: 'ts' };
  });
}

/** What caught a mutant. */
export interface Catch {
  readonly seed: number;
  readonly rule: string;
  readonly message: string;
}

/** Runs seeds until one breaks a rule. */
export function firstCatch(
  simulator: string,
  from: number,
  seeds: number,
  draw?: Mutant['draw'],
): Promise<Catch | undefined> {
  const range = ['--from', String(from), '--seeds', String(seeds)];
  const flags = draw === undefined ? [] : [`--${draw}`];
  const args = [...range, '--jobs', '1', '--first', '--no-shrink', ...flags];
  return new Promise((resolve) => {
    execFile(process.execPath, [simulator, ...args], { maxBuffer: 1 << 26 }, (_, stdout) => {
      const found = /^seed (\d+) breaks ([\w-]+) at [\d.]+ ms: (.*)$/m.exec(stdout);
      if (found === null) resolve(undefined);
      else resolve({ seed: Number(found[1]), rule: found[2] ?? '', message: found[3] ?? '' });
    });
  });
}
