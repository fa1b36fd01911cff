/** What a {@link Screen} writes to: `process.stderr` is one. */
export interface TextSink {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  readonly rows?: number | undefined;
}

/** Where the size of a terminal is not known. */
const sizeDefault = { columns: 80, rows: 24 };

/**
 * Lines for a person, and below them, on a terminal, a few that are redrawn in place. On anything else (a
 * pipe, a file, a dumb terminal) nothing is ever redrawn, and no control character is written.
 */
export class Screen {
  /** Whether {@link Screen.draw} does anything. */
  readonly interactive: boolean;
  /** Whether colours are welcome: on a terminal, unless NO_COLOR is set. */
  readonly color: boolean;
  readonly #sink: TextSink;
  #drawn: readonly string[] = [];

  constructor(sink: TextSink, env: NodeJS.ProcessEnv) {
    this.#sink = sink;
    this.interactive = sink.isTTY === true && env.TERM !== 'dumb';
    this.color = this.interactive && (env.NO_COLOR ?? '') === '';
  }

  /**
   * The room for drawn lines: the last column stays free, since many terminals wrap there, and the last row
   * for the cursor.
   */
  get size(): { readonly columns: number; readonly rows: number } {
    const columns = this.#sink.columns || sizeDefault.columns;
    const rows = this.#sink.rows || sizeDefault.rows;
    return { columns: Math.max(1, columns - 1), rows: Math.max(1, rows - 1) };
  }

  /** A line that stays, above what is drawn. */
  log(line: string): void {
    this.#sink.write(`${this.#erase()}${line}\n${this.#drawn.map((each) => `${each}\n`).join('')}`);
  }

  /** Draws lines in the place of those drawn before. They must fit {@link Screen.size}. */
  draw(lines: readonly string[]): void {
    if (!this.interactive) return;
    const erase = this.#erase();
    this.#drawn = lines;
    this.#sink.write(erase + lines.map((line) => `${line}\n`).join(''));
  }

  /** What is drawn now stays as it is. */
  keep(): void {
    this.#drawn = [];
  }

  #erase(): string {
    return this.#drawn.length === 0 ? '' : `\u001b[${this.#drawn.length}A\u001b[J`;
  }
}
