// Whether a register is one that the engine can rely on. Run with: node --test
import { test } from 'node:test';
import { registerCompliance } from 'longhaul/testing';
import { keyValueRegister } from './key-value-register.js';
import { memoryStore } from './memory-store.js';

registerCompliance({
  test,
  create: async () => {
    const store = memoryStore();
    return {
      register: keyValueRegister(store),
      reopen: async () => keyValueRegister(store),
      close: async () => {},
    };
  },
});
