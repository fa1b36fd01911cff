// Goal: nobody uses the place that a listener keeps for one VM to bring another. Method: a source that greets
// for one and describes another, against the real destination.
import { expect, test } from 'vitest';
import { createMemoryBackend, createMemoryVm } from '../../src/backends/memory/index.ts';
import { connectChannel } from '../../src/channel/connect.ts';
import { createDestination, memoryLink, memoryRegister } from '../../src/index.ts';
import { createVirtualEnvironment } from '../support/virtual-environment.ts';

test('a source that greets for one VM and describes another is a protocol error', async () => {
  const environment = createVirtualEnvironment();
  const link = memoryLink({ environment });
  const [backend, register] = [createMemoryBackend(), memoryRegister()];
  const destination = createDestination({ environment, transport: link.destination, backend, register });
  const running = destination.run();
  const regions = [{ name: 'ram', sizeBytes: 1 << 20, pageBytes: 4096 }];
  const vm = createMemoryVm({ vmId: 'other', regions, environment });
  const channel = await environment.run(
    connectChannel({
      transport: link.source,
      vmId: 'expected',
      environment,
      connections: 1,
      windowBytesMax: 1 << 20,
      limitMs: 1000,
      signal: undefined,
    }),
  );
  const described = vm.source().description;
  channel.send({
    type: 'prepare',
    vm: described,
    disks: {},
    seed: 'none',
    memory: 'copy',
    handover: 'confirmed',
    audit: 'off',
    highest: 0,
    digestKey: 0,
    decideMsMax: 1000,
    silenceMsMax: 5000,
    outageMsMax: 0,
  });
  const report = await environment.run(running);
  expect(report).toMatchObject({ outcome: 'failed', owner: 'source', vmId: '' });
  expect(report.error).toMatchObject({ code: 'protocol', message: expect.stringContaining('other') });
  channel.abort(report.error as never);
  vm.destroy();
});
