/** Plug points that are made in the engine's thread, and end it. */
import { BroadcastChannel } from 'node:worker_threads';
import { fileRegister, type OwnershipRegister, type Transport } from 'longhaul';
import { type TcpOptions, tcp } from 'longhaul/tcp';

/** TCP, in a thread that dies when it is told to, or stands still for some ms. */
export async function mortalTransport(options: TcpOptions): Promise<Transport> {
  new BroadcastChannel('deaths').onmessage = (event) => {
    const { data } = event as { data: unknown };
    if (data === 'exit') process.exit(7);
    if (typeof data === 'number') {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, data);
      return;
    }
    setImmediate(() => {
      throw new TypeError('nobody foresaw this');
    });
  };
  return tcp(options);
}

/** Ends its thread as soon as that value stands: at *given* before anybody knows, else right after. */
export function mortalRegister({ directory, at }: { directory: string; at: string }): OwnershipRegister {
  const register = fileRegister(directory);
  return {
    read: (vmId) => register.read(vmId),
    async claim(...claim) {
      const stands = await register.claim(...claim);
      if (stands === 'given' && at === 'given') process.exit(7);
      // The claim has to be known to stand before.
      if (stands === at) setImmediate(() => process.exit(7));
      return stands;
    },
  };
}
