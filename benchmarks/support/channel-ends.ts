/**
 * The two ends of a channel by itself: items of 1 MiB in one stream, applied as soon as they have arrived. To be bundled (bundle.js): the channel is no
 * part of what the library exports.
 */
import { ChannelAcceptor, connectChannel } from '../../src/channel/connect.ts';
import { CreditPool } from '../../src/channel/credit-pool.ts';
import { resolvePolicy } from '../../src/core/policy.ts';
import { type TcpOptions, type TcpTransport, tcp, tls } from '../../src/transports/index.ts';
import { nodeEnvironment as environment } from '../../src/util/node-environment.ts';
import { deferred } from '../../src/util/promises.ts';
import { itemContentBytesMax } from '../../src/wire/limits.ts';

export { checksumImplementation, crc32c } from '../../src/util/checksum.ts';

/** Of both ends, in PEM. */
export interface Credentials {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

const { windowBytesMax, connectMsMax } = resolvePolicy();
const streamId = 1;
const digestKey = 1;
/** What a destination has for what is not applied yet. */
const receiveBytesMax = 256 << 20;

/** TCP, or TLS where there are credentials. */
export function transportOf(addresses: TcpOptions, credentials: Credentials | undefined): TcpTransport {
  return credentials === undefined ? tcp(addresses) : tls({ ...addresses, ...credentials });
}

/** A channel to send on. `connections`: undefined for as many as it likes. */
export async function openSender(transport: TcpTransport, connections: number | undefined) {
  const channel = await connectChannel({
    environment,
    transport,
    vmId: 'benchmark',
    connections,
    windowBytesMax,
    limitMs: connectMsMax,
    signal: undefined,
  });
  const stream = channel.openSend(streamId, digestKey);
  // The receiver may not speak of the stream before.
  channel.send({ type: 'flush', token: 0 });
  return {
    /** Sends `content`, of which `bytes` are a multiple or it of them; resolves to the stream's digest once all of it is applied. */
    send: async (content: Uint8Array, bytes: number): Promise<string> => {
      for (let offset = 0; offset < bytes; offset += itemContentBytesMax) {
        await stream.room();
        const at = offset % content.byteLength;
        const piece = content.subarray(at, at + Math.min(itemContentBytesMax, bytes - offset));
        const range = { space: 0, offset, length: piece.byteLength, content: [piece] };
        stream.push('memory', [range], () => {});
      }
      await stream.allApplied();
      return stream.digest;
    },
    close: () => {
      channel.send({ type: 'bye' });
      return channel.close();
    },
  };
}

/** Takes the next channel; `receive` resolves to the digest of what was applied, once that is `bytes`. */
export function openReceiver(transport: TcpTransport) {
  const acceptor = new ChannelAcceptor({
    environment,
    transport,
    windowBytesMax,
    sessions: true,
    greetingMsMax: connectMsMax,
    onQuestion: async ({ connection }) => connection.abort(),
  });
  const taken = acceptor.channel(undefined);
  return {
    receive: async (bytes: number): Promise<string> => {
      const channel = await taken;
      await channel.mailbox.take('flush');
      const credit = new CreditPool({
        totalBytes: receiveBytesMax,
        streams: 1,
        now: () => environment.now(),
        roundTripMs: () => channel.roundTripMs,
      }).open();
      const all = deferred<void>();
      let rest = bytes;
      const stream = channel.openReceive(streamId, digestKey, credit, (item) => {
        for (const { length } of item.ranges) rest -= length;
        stream.applied(item);
        if (rest === 0) all.resolve();
      });
      channel.signal.addEventListener('abort', () => all.reject(channel.signal.reason), { once: true });
      await all.promise;
      return stream.digest;
    },
    close: async () => {
      const channel = await taken;
      // Else the sender might not learn any more that all was applied.
      await channel.mailbox.take('bye');
      await channel.close();
      await acceptor.close();
    },
  };
}
