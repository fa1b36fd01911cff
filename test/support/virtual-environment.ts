export { createVirtualEnvironment, type VirtualEnvironment } from '../../src/testing/virtual-time.ts';
