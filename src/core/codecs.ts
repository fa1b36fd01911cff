import type { Channel } from '../channel/channel.ts';
import { MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { MigrationReport } from '../interfaces/migration.ts';
import type { MessageOf } from '../wire/messages.ts';
import type { ResolvedPolicy } from './policy.ts';

/** What a source that may compress offers in `prepare`; nothing, if it may not. */
export function offeredCodecs(
  environment: Environment,
  { compression }: Pick<ResolvedPolicy, 'compression'>,
): Pick<MessageOf<'prepare'>, 'codecs'> {
  const { codecs = [] } = compression === 'auto' ? environment : {};
  return codecs.length === 0 ? {} : { codecs: codecs.map(({ name }) => name) };
}

/** Has the channel take what comes compressed, with the first codec of those offered that this end has too; returns what `prepared` says of it. */
export function decompressAsOffered(
  channel: Pick<Channel, 'decompress'>,
  environment: Environment,
  { codecs: offered = [] }: Pick<MessageOf<'prepare'>, 'codecs'>,
): Pick<MessageOf<'prepared'>, 'codec'> {
  const { codecs = [] } = offered.length > 0 ? environment : {};
  for (const name of offered) {
    const codec = codecs.find((candidate) => candidate.name === name);
    if (codec === undefined) continue;
    channel.decompress(codec);
    return { codec: name };
  }
  return {};
}

/** Lets the channel compress, if the destination has chosen a codec. Throws `protocol` for one that was not offered. */
export function compressAsAgreed(
  channel: Pick<Channel, 'compress'>,
  environment: Environment,
  policy: Pick<ResolvedPolicy, 'compression'>,
  { codec: name }: Pick<MessageOf<'prepared'>, 'codec'>,
): void {
  if (name === undefined) return;
  const { codecs = [] } = policy.compression === 'auto' ? environment : {};
  const codec = codecs.find((candidate) => candidate.name === name);
  if (codec === undefined) {
    throw new MigrationError('protocol', `the destination chose the codec ${name}, which was not offered`);
  }
  channel.compress(codec);
}

/** What of progress and report says what compression was good for. */
export function compressionOf(channel: Channel | undefined): Pick<MigrationReport, 'compression'> {
  const compression = channel?.compression;
  return compression === undefined ? {} : { compression };
}
