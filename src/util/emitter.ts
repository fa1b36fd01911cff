import { EventEmitter } from 'node:events';
import type Emitter from 'typed-emitter';
import type { EventMap } from 'typed-emitter';

/** A typed event emitter: `on`, `off`, `once`, `emit` and the rest of Node's `EventEmitter`. `Events` is a `type`. */
export type TypedEmitter<Events extends EventMap> = Emitter.default<Events>;

/** A new emitter. */
export function createEmitter<Events extends EventMap>(): TypedEmitter<Events> {
  return new EventEmitter() as unknown as TypedEmitter<Events>;
}
