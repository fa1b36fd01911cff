/** What every ownership register owes the engine. */
import type { Claim, ClaimRole, ClaimValue, OwnershipRegister } from '../../interfaces/register.ts';
import { check, checkEqual, checkRejects } from './check.ts';
import { eachWith, type Fixture, type FixtureTest, type TestFunction } from './test-function.ts';

/** A register for one test. */
export interface RegisterFixture extends Fixture {
  /** An empty register. */
  readonly register: OwnershipRegister;
  /**
   * Opens the same register again, as another process or this one after a crash does. Left out where the
   * register lives and dies with the object.
   */
  reopen?(): Promise<OwnershipRegister>;
}

/** What {@link registerCompliance} takes. */
export interface RegisterComplianceOptions {
  /** The runner's test function. */
  readonly test: TestFunction;
  /** Called once for each test. */
  create(): Promise<RegisterFixture>;
}

/** Declares the tests that every {@link OwnershipRegister} passes. */
export function registerCompliance({ test, create }: RegisterComplianceOptions): void {
  const withRegister = eachWith(test, create);
  claimTests(withRegister);
  readyTests(withRegister);
  argumentTests(withRegister);
  reopenTests(withRegister);
}

function claimTests(test: FixtureTest<RegisterFixture>): void {
  test('knows nothing at first', async ({ register }) => {
    checkEqual(await register.read('vm'), [], 'the claims of a VM that nobody has claimed');
  });

  test('keeps the first claim of a role, and says so to everybody', async ({ register }) => {
    for (const value of ['declined', 'owner', 'declined'] as const) {
      checkEqual(await register.claim('vm', 1, 'destination', value), 'declined', `claiming ${value}`);
    }
    await expectClaims(register, 'vm', [{ epoch: 1, role: 'destination', value: 'declined' }]);
  });

  test('takes every role with each of its values', async ({ register }) => {
    const claims: Claim[] = [
      { epoch: 1, role: 'source', value: 'given' },
      { epoch: 1, role: 'destination', value: 'declined' },
      { epoch: 1, role: 'return', value: 'reclaimed' },
      { epoch: 2, role: 'destination', value: 'owner' },
    ];
    for (const { epoch, role, value } of claims) {
      checkEqual(await register.claim('vm', epoch, role, value), value, `claiming ${value}`);
    }
    await expectClaims(register, 'vm', claims);
  });

  test('keeps attempts and VMs apart', async ({ register }) => {
    await register.claim('a', 1, 'destination', 'owner');
    await register.claim('a', 12, 'destination', 'declined');
    await register.claim('A', Number.MAX_SAFE_INTEGER, 'destination', 'owner');
    await expectClaims(register, 'a', [
      { epoch: 1, role: 'destination', value: 'owner' },
      { epoch: 12, role: 'destination', value: 'declined' },
    ]);
    await expectClaims(register, 'A', [
      { epoch: Number.MAX_SAFE_INTEGER, role: 'destination', value: 'owner' },
    ]);
    await expectClaims(register, 'b', []);
  });

  test('lets one of many claims at once win, and tells all of them which', async (fixture) => {
    const handles = [fixture.register, (await fixture.reopen?.()) ?? fixture.register];
    for (let epoch = 1; epoch <= 5; epoch += 1) {
      const claiming = Array.from({ length: 16 }, (_, index) => {
        const value = index % 2 === 0 ? 'owner' : 'declined';
        // Two of each pair through the same handle: else each handle would only ever want one value.
        return handles[(index >> 1) % 2]?.claim('vm', epoch, 'destination', value);
      });
      const standing = new Set(await Promise.all(claiming));
      checkEqual(standing.size, 1, `values that claims of attempt ${epoch} were told`);
      const [value] = standing;
      const claims = await fixture.register.read('vm');
      const stands = claims.filter((claim) => claim.epoch === epoch).map((claim) => claim.value);
      checkEqual(stands, [value], `the value that stands for attempt ${epoch}`);
    }
  });

  test('takes any string of 1 to 255 characters as the id of a VM', async ({ register }) => {
    const ids = ['.', '..', '/', '../../etc/passwd', 'a/b', 'a\\b', 'a:b', '\0', 'con', ' ', '%2e', '*'];
    ids.push('\ud800', '\udfff', '\u00e9', 'e\u0301', '\u{1f600}', '__proto__', 'constructor');
    ids.push('x'.repeat(255), '\u{10ffff}'.repeat(127));
    for (const [index, id] of ids.entries()) await register.claim(id, index + 1, 'source', 'given');
    for (const [index, id] of ids.entries()) {
      await expectClaims(register, id, [{ epoch: index + 1, role: 'source', value: 'given' }]);
    }
  });
}

function readyTests(test: FixtureTest<RegisterFixture>): void {
  test('claims nothing when it makes ready for a claim, however often, and whatever else is claimed', async (fixture) => {
    const again = (await fixture.reopen?.()) ?? fixture.register;
    const ready = (vmId: string) => Promise.all([fixture.register.prepare?.(vmId), again.prepare?.(vmId)]);
    await ready('vm');
    await expectClaims(again, 'vm', []);
    const claiming = Array.from({ length: 8 }, (_, index) => {
      return [ready('vm'), fixture.register.claim('vm', index + 1, 'source', 'given')];
    });
    await Promise.all(claiming.flat());
    const claims = Array.from({ length: 8 }, (_, index) => {
      return { epoch: index + 1, role: 'source', value: 'given' } as const;
    });
    await expectClaims(again, 'vm', claims);
  });

  test('refuses to make ready without an id', async ({ register }) => {
    for (const id of ['', 'x'.repeat(256)]) {
      if (register.prepare === undefined) return;
      const preparing = Promise.resolve().then(() => register.prepare?.(id));
      await checkRejects(preparing, 'invalid-argument', `making ready for claims of '${id}'`);
    }
  });
}

function argumentTests(test: FixtureTest<RegisterFixture>): void {
  const wrong: readonly (readonly unknown[])[] = [
    ['', 1, 'source', 'given'],
    ['x'.repeat(256), 1, 'source', 'given'],
    [7, 1, 'source', 'given'],
    ['vm', 0, 'source', 'given'],
    ['vm', -1, 'source', 'given'],
    ['vm', 1.5, 'source', 'given'],
    ['vm', Number.NaN, 'source', 'given'],
    ['vm', Number.MAX_SAFE_INTEGER + 1, 'source', 'given'],
    ['vm', '1', 'source', 'given'],
    ['vm', 1, 'toString', 'given'],
    ['vm', 1, 'source', 'owner'],
    ['vm', 1, 'destination', 'reclaimed'],
    ['vm', 1, 'return', undefined],
  ];
  test('refuses what is no claim, and keeps nothing of it', async ({ register }) => {
    for (const args of wrong) {
      const [vmId, epoch, role, value] = args as [string, number, ClaimRole, ClaimValue];
      const claiming = Promise.resolve().then(() => register.claim(vmId, epoch, role, value));
      await checkRejects(claiming, 'invalid-argument', `claiming ${JSON.stringify(args)}`);
    }
    await expectClaims(register, 'vm', []);
  });

  test('refuses to read without an id', async ({ register }) => {
    for (const id of ['', 'x'.repeat(256)]) {
      const reading = Promise.resolve().then(() => register.read(id));
      await checkRejects(reading, 'invalid-argument', `reading the claims of '${id}'`);
    }
  });
}

function reopenTests(test: FixtureTest<RegisterFixture>): void {
  test('what was claimed stands when it is opened again', async (fixture) => {
    const again = async () => (await fixture.reopen?.()) ?? fixture.register;
    await fixture.register.claim('vm', 3, 'destination', 'owner');
    const second = await again();
    checkEqual(await second.claim('vm', 3, 'destination', 'declined'), 'owner', 'claiming declined later');
    await second.claim('vm', 3, 'source', 'given');
    for (const register of [await again(), fixture.register]) {
      await expectClaims(register, 'vm', [
        { epoch: 3, role: 'source', value: 'given' },
        { epoch: 3, role: 'destination', value: 'owner' },
      ]);
    }
  });

  test('what it says of the past does not change with what is claimed later', async ({ register }) => {
    await register.claim('vm', 1, 'source', 'given');
    const before = await register.read('vm');
    await register.claim('vm', 2, 'source', 'given');
    check(before.length === 1, 'a list of claims that was read grew by itself');
  });
}

async function expectClaims(
  register: OwnershipRegister,
  vmId: string,
  expected: readonly Claim[],
): Promise<void> {
  const inOrder = (claims: readonly Claim[]) =>
    claims.map(({ epoch, role, value }) => `${epoch} ${role} ${value}`).sort();
  const claims = inOrder(await register.read(vmId));
  checkEqual(claims, inOrder(expected), `the claims of ${JSON.stringify(vmId.slice(0, 20))}`);
}
