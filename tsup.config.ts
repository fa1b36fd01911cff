import { defineConfig } from 'tsup';

export default defineConfig({
  entry: {
    index: 'src/index.ts',
    memory: 'src/backends/memory/index.ts',
    qemu: 'src/backends/qemu/index.ts',
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
