import { defineConfig } from 'tsup';

export default defineConfig({
  entry: {
    index: 'src/index.ts',
    images: 'src/backends/images/index.ts',
    memory: 'src/backends/memory/index.ts',
    qemu: 'src/qemu.ts',
    // Beside the others: they start these by their place.
    'qemu-worker': 'src/worker/qemu-worker.ts',
    'qemu-tap': 'src/backends/qemu/qemu-tap.ts',
    tcp: 'src/transports/index.ts',
    testing: 'src/testing/index.ts',
    'cli/main': 'src/cli/main.ts',
  },
  format: ['esm'],
  target: 'node20',
  platform: 'node',
  sourcemap: true,
  clean: true,
  splitting: true,
  dts: { resolve: ['typed-emitter'] },
});
