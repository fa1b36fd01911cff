export { fileRegister } from './file-register.ts';
export { memoryRegister } from './memory-register.ts';
