/**
 * Goal: a guest that arrives is announced on its network, no sooner than it is this host's; and its monotonic clock never goes back, and loses
 * no more than the time for which it stood still. Method: the whole engine, a Linux guest with a network card whose packets are read here.
 */
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import {
  createDestination,
  createSource,
  memoryLink,
  memoryRegister,
  type OwnershipRegister,
} from '../../src/index.ts';
import { bootGuest, type Guest, guestDirectory, qemuAvailable } from './support/guest.ts';

const qemu = qemuAvailable();
const suite = qemu.available
  ? 'a real guest that arrives'
  : `a real guest that arrives (skipped: ${qemu.why})`;

const mac = '52:54:00:6c:68:01';
const rarp = 0x8035;
/** So long the destination takes over its claim: a packet that comes too early would come meanwhile. */
const claimMs = 600;

/** A network of one card: every frame that the QEMU sends, with when it came. */
class Cable {
  readonly frames: { readonly atMs: number; readonly bytes: Buffer }[] = [];
  readonly path: string;
  readonly #server: Server;
  #rest = Buffer.alloc(0);
  #wake = () => {};

  constructor(path: string) {
    this.path = path;
    this.#server = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('data', (chunk) => this.#take(chunk));
    });
  }

  /** What QEMU has to be started with, once it is listened. */
  async plug(): Promise<readonly string[]> {
    await new Promise<void>((resolve) => this.#server.listen(this.path, resolve));
    return [
      ...['-netdev', `stream,id=net0,server=off,addr.type=unix,addr.path=${this.path}`],
      ...['-device', `virtio-net-pci,id=card0,netdev=net0,mac=${mac},romfile=`],
    ];
  }

  /** The card saying where it is. */
  get announcements(): readonly { readonly atMs: number; readonly bytes: Buffer }[] {
    return this.frames.filter(({ bytes }) => bytes.readUInt16BE(12) === rarp);
  }

  async announced(): Promise<void> {
    while (this.announcements.length === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  unplug(): void {
    this.#server.close();
  }

  /** Each frame comes behind its length. */
  #take(chunk: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, chunk]);
    for (;;) {
      const length = this.#rest.length < 4 ? Number.NaN : this.#rest.readUInt32BE(0);
      if (!(this.#rest.length >= 4 + length)) return;
      this.frames.push({ atMs: performance.now(), bytes: this.#rest.subarray(4, 4 + length) });
      this.#rest = this.#rest.subarray(4 + length);
      this.#wake();
    }
  }
}

// A machine without QEMU 9 or the built guest cannot run these; the suite's name says what was missing.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  let directory: ReturnType<typeof guestDirectory>;
  const guests: Guest[] = [];
  const cables: Cable[] = [];

  beforeEach(() => {
    directory = guestDirectory();
  });

  afterEach(async () => {
    await Promise.all(guests.splice(0).map((guest) => guest.kill()));
    for (const cable of cables.splice(0)) cable.unplug();
    await directory[Symbol.asyncDispose]();
  });

  async function host(name: string, incoming: boolean): Promise<{ guest: Guest; cable: Cable }> {
    const cable = new Cable(join(directory.path, `${name}.net`));
    cables.push(cable);
    const extraArguments = await cable.plug();
    const load = { memoryMiB: 16, memoryHotMiB: 4, dirtyMiBPerSecond: 4 };
    const guest = await bootGuest({
      name,
      dir: directory.path,
      disks: [],
      memoryMiB: 128,
      load,
      incoming,
      extraArguments,
    });
    guests.push(guest);
    return { guest, cable };
  }

  /** Moves a guest, and says since when it is the destination's. */
  async function move(here: Guest, there: Guest) {
    const link = memoryLink({ rttMs: 2, rateMbit: 2000 });
    const inner = memoryRegister();
    let ownedAtMs = Number.NaN;
    const register: OwnershipRegister = {
      read: inner.read,
      claim: async (...claim) => {
        await sleep(claimMs);
        const value = await inner.claim(...claim);
        ownedAtMs = performance.now();
        return value;
      },
    };
    const vm = await openQemuSource({ qmp: here.qmpPath, runtimeDir: directory.path, quitOnRelease: false });
    const backend = createQemuBackend({ qmp: there.qmpPath, runtimeDir: directory.path });
    const source = createSource({ vm, transport: link.source, register: memoryRegister() });
    const destination = createDestination({ backend, transport: link.destination, register });
    const [sent, received] = await Promise.all([source.run(), destination.run()]);
    expect([sent.error, received.error]).toEqual([undefined, undefined]);
    expect(sent.outcome).toBe('completed');
    await there.nextTick();
    return { ownedAtMs, downtimeMs: sent.downtimeMs };
  }

  /** What the guest's clock says, and the time outside just before and after. */
  async function readClock(guest: Guest) {
    const earliestMs = performance.now();
    const { uptimeMs, clockBackNs } = await guest.stats();
    return { earliestMs, latestMs: performance.now(), uptimeMs, clockBackNs };
  }

  it('is announced by start()', async () => {
    const [here, there] = await Promise.all([host('a', false), host('b', true)]);
    // By itself QEMU would do it as well.
    await there.guest.qmp('migrate-set-parameters', { 'announce-rounds': 0 });
    await move(here.guest, there.guest);
    await there.cable.announced();
    const [first] = there.cable.announcements;
    const hardware = Buffer.from(mac.replaceAll(':', ''), 'hex');
    // To all, from the card, asking which address it has: so every switch on the way learns where it is.
    expect(first?.bytes.subarray(0, 6)).toEqual(Buffer.alloc(6, 0xff));
    expect(first?.bytes.subarray(6, 12)).toEqual(hardware);
    expect(first?.bytes.readUInt16BE(20)).toBe(3);
  });

  it('is not announced before it is here, and its clock goes on where it stood still', async () => {
    const [here, there] = await Promise.all([host('a', false), host('b', true)]);
    const before = await readClock(here.guest);
    const { ownedAtMs, downtimeMs } = await move(here.guest, there.guest);
    const after = await readClock(there.guest);
    expect(downtimeMs).toBeGreaterThan(claimMs);
    expect([before.clockBackNs, after.clockBackNs]).toEqual([0, 0]);
    // No faster than the time outside, whose seconds may be a little longer; and slower by what it stood still, and no more.
    const passedMs = after.uptimeMs - before.uptimeMs;
    expect(passedMs).toBeLessThan(1.01 * (after.latestMs - before.earliestMs) + 20);
    expect(passedMs).toBeGreaterThan(0.99 * (after.earliestMs - before.latestMs) - downtimeMs - 250);
    // QEMU would announce it as soon as it is loaded, but sends nothing of a guest that does not run.
    await there.cable.announced();
    for (const { atMs } of there.cable.announcements) expect(atMs).toBeGreaterThan(ownedAtMs);
  });
});
