/**
 * Goal: what was received is given back to the connection, and nobody looks at it after that: not memory, disks, mirrored writes or device state, whatever was compressed, came twice
 * or had to wait. Method: whole migrations over a transport that writes over what it gets back; the VM at the destination is compared with the one that there was.
 */
import { describe, expect, it } from 'vitest';
import { type DestinationVm, MigrationError } from '../../src/index.ts';
import { faultyTransport, repeatCodec } from '../../src/testing/index.ts';
import { overwritingTransport, type Recycled } from '../support/overwriting-transport.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';
import { busyVm, createWorld, mebibyte, type WorldOptions, withChanges } from '../support/worlds.ts';

/** Moves a busy VM; says how much of what arrived was given back. */
async function move(options: WorldOptions) {
  const recycled: Recycled = { chunks: 0, bytes: 0 };
  const { transport = (link) => link } = options;
  const world = createWorld({
    ...options,
    transport: (link) => overwritingTransport(transport(link), recycled),
  });
  const reports = await world.run();
  expect(reports.source.error).toBeUndefined();
  expect(reports.destination.outcome).toBe('completed');
  expect(world.comparison()).toMatchObject({ equal: true });
  const { deliveredBytes } = world.link.statistics().toDestination;
  return { ...reports, recycled, part: recycled.bytes / deliveredBytes };
}

describe('what was received is given back, and nobody looks at it any more', () => {
  it('of memory, disks and mirrored writes', async () => {
    const { source, part } = await move({ link: { rttMs: 20, rateMbit: 400 } });
    expect(source.bytes.mirror).toBeGreaterThan(0);
    // All but the greetings, and what was on its way at the end.
    expect(part).toBeGreaterThan(0.95);
  });

  it('of what came compressed', async () => {
    const environment = createVirtualEnvironment();
    Object.assign(environment, { codecs: [repeatCodec(environment)] });
    const vm = busyVm(environment, { idle: true });
    // A page in eight is noise: what an item comes to is still so large that nobody copies it on arrival.
    const page = Uint8Array.from({ length: 4096 }, (_, at) => at * 7);
    for (let offset = 0; offset < 8 * mebibyte; offset += 4096) {
      if (offset % 32_768 === 0) continue;
      new DataView(page.buffer).setUint32(0, offset);
      vm.memory.write(0, offset, page);
    }
    const { source, part } = await move({
      environment,
      vm,
      link: { rttMs: 20, rateMbit: 40 },
      policy: { compression: 'auto' },
    });
    expect(source.compression?.inputBytes).toBeGreaterThan(0);
    expect(part).toBeGreaterThan(0.95);
  });

  it('of what came before a switchover that failed, and after it', async () => {
    let tries = 0;
    const { source } = await move({
      link: { rttMs: 20, rateMbit: 400 },
      destinationVm: (vm) =>
        withChanges<DestinationVm>(vm, {
          loadDeviceState: async (state, call) => {
            if (++tries === 1) throw new MigrationError('device-state', 'the first time');
            await vm.loadDeviceState(state, call);
          },
        }),
    });
    expect(source.switchoverAttempts).toBe(2);
  });

  it('of frames that came over one connection and then again over another', async () => {
    for (const atByte of [100_003, 1_500_007, 6_000_011]) {
      const { recycled } = await move({
        link: { rttMs: 20, rateMbit: 400 },
        policy: { connections: 3 },
        transport: (link) =>
          link.capabilities.open
            ? faultyTransport(link, [
                { on: 'connection', nth: 2, do: 'drop', way: 'sent', atByte },
                { on: 'connection', nth: 3, do: 'flip', way: 'sent', atByte: 2 * atByte },
              ])
            : link,
      });
      expect(recycled.bytes).toBeGreaterThan(10_000_000);
    }
  });
});
