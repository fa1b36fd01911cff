export type * from './block-device.ts';
export type * from './content.ts';
export type * from './environment.ts';
export type * from './hypervisor.ts';
export type * from './memory.ts';
export type * from './migration.ts';
export type * from './register.ts';
export type * from './transport.ts';
