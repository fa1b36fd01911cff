/**
 * One step of a guest's way from host to host, looked at as closely as can be. Wherever it arrives it reads
 * again all that it ever wrote. Beside that, before it runs there for the first time (`cont` is held for that
 * long), the destination's images are copied; once the source's QEMU has ended they are compared with the
 * source's, byte by byte.
 */
import assert from 'node:assert/strict';
import { constants, copyFile, rm } from 'node:fs/promises';
import type { DiskSpec } from '../../qemu/support/guest.ts';
import { expectSameContent, type Host, type JsonReport, type QemuHosts } from './qemu-hosts.ts';
import { QmpGate } from './qmp-gate.ts';

/** Times are less the time for which `cont` was held. */
export interface WholeMove {
  readonly destination: Host;
  readonly report: JsonReport;
  readonly totalMs: number;
  readonly downtimeMs: number;
  /** From the guest's last tick here to its first one there. */
  readonly silenceMs: number;
}

/**
 * Moves the guest to a new host and ends the old one. Throws if anything is not as it was.
 *
 * @param mbit of the link; 0 is none but the machine's own.
 * @param more options of `send`.
 */
export async function moveWhole(
  hosts: QemuHosts,
  source: Host,
  mbit = 0,
  ...more: readonly string[]
): Promise<WholeMove> {
  const destination = await hosts.boot(true);
  const arrived = destination.disks.map((disk) => ({ ...disk, file: `${disk.file}.arrived` }));
  using gate = await QmpGate.open(hosts.path(`${destination.name}.gate`), destination.guest.qmpPath, () =>
    copyImages(destination.disks, arrived),
  );
  const receiving = await hosts.receive(destination, { qmp: gate.path });
  const link = mbit === 0 ? undefined : await hosts.slowLink(receiving.to, mbit);
  const way = { process: receiving.process, to: link?.to ?? receiving.to };
  const report = await hosts
    .moveTo(source, destination, way, ...more)
    .finally(() => link?.process.child.kill());
  assert(gate.heldMs > 0, 'the guest was not held');
  assert(report.guestWrites.mirrored > 0, 'the guest did not write meanwhile');
  for (const [index, disk] of source.disks.entries())
    await expectSameContent(disk, arrived[index] as DiskSpec);
  await Promise.all(arrived.map(({ file }) => rm(file)));
  await hosts.end(source);
  const silenceMs =
    (destination.guest.ticks.firstAtMs ?? Number.NaN) - (source.guest.ticks.lastAtMs ?? Number.NaN);
  return {
    destination,
    report,
    totalMs: report.totalMs - gate.heldMs,
    downtimeMs: report.downtimeMs - gate.heldMs,
    silenceMs: silenceMs - gate.heldMs,
  };
}

async function copyImages(from: readonly DiskSpec[], to: readonly DiskSpec[]): Promise<void> {
  await Promise.all(
    from.map(({ file }, index) => copyFile(file, to[index]?.file ?? '', constants.COPYFILE_FICLONE)),
  );
}
