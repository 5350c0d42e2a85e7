import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, expect, it } from 'vitest';

import { api, credentials, enter, inspect, server, useBrowser, withPage } from './harness';

useBrowser();

const folder = mkdtempSync(join(tmpdir(), 'atoll-files-'));
afterEach(async () => {
	const { items } = await api<{ items: { id: string }[] }>('GET', '/v1/sandboxes');
	await Promise.all(items.map(({ id }) => api('DELETE', `/v1/sandboxes/${id}`)));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const sandbox = async () => (await api<{ id: string }>('POST', '/v1/sandboxes', { memory_mb: 256 })).id;

it('types into the terminal, and comes back to the same shell after the connection was lost', () =>
	withPage(async (page) => {
		await page.addInitScript(() => {
			const sockets: WebSocket[] = [];
			const Real = WebSocket;
			Object.assign(window, {
				sockets,
				WebSocket: class extends Real {
					constructor(url: string | URL, protocols?: string | string[]) {
						super(url, protocols);
						sockets.push(this);
					}
				}
			});
		});
		const id = await sandbox();
		await enter(page, `/dashboard/sandboxes/${id}/terminal`);
		const screen = page.locator('.xterm-rows');
		await screen.getByText('user@').first().waitFor();
		await page.keyboard.type('echo hi; SEEN=yes\n');
		await screen.getByText(/^hi\s*$/).waitFor();
		await page.evaluate('sockets[0].close()');
		await expect.poll(() => page.evaluate('sockets.length === 2 && sockets[1].readyState')).toBe(1);
		await page
			.getByRole('status')
			.filter({ hasText: /lost|Connecting/ })
			.waitFor({ state: 'detached' });
		await page.keyboard.type('echo "still $SEEN"\n');
		await screen.getByText(/^still yes\s*$/).waitFor();

		// The shell knows how large its screen is, also when that changes.
		await page.keyboard.type('stty size\n');
		const size = screen.getByText(/^\d+ \d+\s*$/);
		await size.first().waitFor();
		const wide = await size.first().innerText();
		await page.setViewportSize({ width: 800, height: 600 });
		// Keys may be quicker than the page, which notices its new size when it draws.
		const again = async () => {
			await page.keyboard.type('clear; stty size\n');
			return size.last().innerText();
		};
		await expect.poll(again, { interval: 500 }).not.toBe(wide);
		const [rows = 0, columns = 0] = (await size.last().innerText()).trim().split(' ').map(Number);
		expect(rows).toBeLessThan(Number(wide.split(' ')[0]));
		expect(columns).toBeLessThan(Number(wide.trim().split(' ')[1]));

		// What is marked can be copied, by a button and by keys; with nothing marked Ctrl-C interrupts.
		await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
		const clipboard = () => page.evaluate<string>('navigator.clipboard.readText()');
		await page.keyboard.type('clear; echo coral\n');
		const word = screen.getByText(/^coral\s*$/);
		// The line is drawn anew while the screen is being cleared.
		const marked = async () => {
			await word.dblclick({ force: true, position: { x: 10, y: 8 }, timeout: 3000 }).catch(() => {});
			return page.getByRole('button', { name: 'Copy', exact: true }).isVisible();
		};
		await expect.poll(marked).toBe(true);
		await page.getByRole('button', { name: 'Copy', exact: true }).click();
		await expect.poll(clipboard).toBe('coral');
		await page.evaluate("navigator.clipboard.writeText('')");
		await expect.poll(marked).toBe(true);
		await page.keyboard.press('Control+c');
		await expect.poll(clipboard).toBe('coral');
		await page.keyboard.type('sleep 4242\n');
		await screen.getByText('sleep 4242').waitFor();
		await page.keyboard.press('Control+c');
		await page.keyboard.type('echo woken\n');
		await screen.getByText(/^woken\s*$/).waitFor();
	}));

it('uploads by drop, looks into files, and downloads the very bytes again', () =>
	withPage(async (page) => {
		const id = await sandbox();
		const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, at) => (at * 7919) % 251));
		writeFileSync(join(folder, 'random.bin'), bytes);
		await enter(page, `/dashboard/sandboxes/${id}/files`);
		await page.getByRole('treeitem', { name: /\.bashrc/ }).waitFor();

		// Dropped onto the page, as from a file manager.
		const dropped = await page.evaluateHandle(() => {
			const transfer = new DataTransfer();
			transfer.items.add(new File(['# Notes\n\nkept\n'], 'notes.md', { type: 'text/plain' }));
			return transfer;
		});
		const region = page.getByRole('region', { name: 'Files' });
		await region.dispatchEvent('dragover', { dataTransfer: dropped });
		await page.getByText('Upload to').first().waitFor();
		await inspect(page, 'files-drop');
		await region.dispatchEvent('drop', { dataTransfer: dropped });
		await page.getByRole('treeitem', { name: /notes\.md/ }).click();
		await page.locator('pre').getByText('kept').waitFor();
		await inspect(page, 'files');

		await page.getByLabel('Files to upload').setInputFiles(join(folder, 'random.bin'));
		await page.getByRole('treeitem', { name: /random\.bin/ }).click();
		await page.getByText(/that are no text/).waitFor();
		const [download] = await Promise.all([
			page.waitForEvent('download'),
			page.getByRole('link', { name: 'Download' }).click()
		]);
		expect(readFileSync(await download.path()).equals(bytes)).toBe(true);

		// Renamed and deleted, by keys in the tree.
		await page.getByRole('treeitem', { name: /notes\.md/ }).click();
		await page.getByRole('button', { name: 'Rename' }).click();
		await page.getByRole('textbox', { name: 'Name' }).fill('kept.md');
		await page.getByRole('dialog').getByRole('button', { name: 'Rename' }).click();
		const kept = page.getByRole('treeitem', { name: /kept\.md/ });
		await kept.focus();
		await page.keyboard.press('Delete');
		await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
		await kept.waitFor({ state: 'detached' });
	}));

it('sends a large file with its progress, and replaces, stops or takes a whole folder as it is told', () =>
	withPage(async (page) => {
		const id = await sandbox();
		const session = await page.context().newCDPSession(page);
		await session.send('Network.enable');
		const slow = (uploadThroughput: number) =>
			session.send('Network.emulateNetworkConditions', {
				offline: false,
				latency: 0,
				downloadThroughput: -1,
				uploadThroughput
			});
		const at = (path: string) => `/v1/sandboxes/${id}/files/stream/read?path=${encodeURIComponent(path)}`;
		const read = async (path: string) => {
			const answer = await fetch(server + at(path), { headers: { 'x-api-key': credentials.api_key } });
			return { status: answer.status, bytes: Buffer.from(await answer.arrayBuffer()) };
		};
		const large = randomBytes(40 << 20);
		writeFileSync(join(folder, 'large.bin'), large);
		await enter(page, `/dashboard/sandboxes/${id}/files`);
		await page.getByRole('treeitem', { name: /\.bashrc/ }).waitFor();
		// Every figure that was shown, however short.
		await page.evaluate(() => {
			const seen: number[] = [];
			Object.assign(window, { seen });
			new MutationObserver(() => {
				const bar = document.querySelector<HTMLProgressElement>('[data-upload] progress');
				if (bar && bar.value !== seen.at(-1)) seen.push(bar.value);
			}).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
		});
		const files = page.getByLabel('Files to upload');
		await slow(20 << 20);
		await files.setInputFiles(join(folder, 'large.bin'));
		await page.getByRole('progressbar', { name: 'Upload of large.bin' }).waitFor();
		await inspect(page, 'files-upload');
		await page.getByText('Uploaded large.bin to /home/user').waitFor();
		const seen = await page.evaluate<number[]>('seen');
		expect(seen.filter((part) => part > 0 && part < 1).length).toBeGreaterThan(2);
		expect(seen).toEqual(seen.toSorted((a, b) => a - b));
		expect((await read('/home/user/large.bin')).bytes.equals(large)).toBe(true);

		// What is there is not replaced without a word.
		writeFileSync(join(folder, 'large.bin'), 'another');
		await files.setInputFiles(join(folder, 'large.bin'));
		const dialog = page.getByRole('dialog');
		await dialog.getByText('Replace large.bin?').waitFor();
		await inspect(page, 'files-replace');
		await dialog.getByRole('button', { name: 'Cancel' }).click();
		expect((await read('/home/user/large.bin')).bytes.length).toBe(large.length);
		await files.setInputFiles(join(folder, 'large.bin'));
		await dialog.getByRole('button', { name: 'Replace' }).click();
		await expect.poll(async () => (await read('/home/user/large.bin')).bytes.toString()).toBe('another');

		// Stopped, nothing of it is left.
		writeFileSync(join(folder, 'half.bin'), large);
		await slow(1 << 20);
		await files.setInputFiles(join(folder, 'half.bin'));
		await page.getByRole('progressbar', { name: 'Upload of half.bin' }).waitFor();
		await page.getByRole('button', { name: 'Stop the upload of half.bin' }).click();
		await page.locator('[data-upload]').waitFor({ state: 'detached' });
		await slow(-1);
		expect((await read('/home/user/half.bin')).status).toBe(404);
		expect(await page.getByRole('treeitem', { name: /half\.bin/ }).count()).toBe(0);

		// A folder, as a file manager drops it.
		mkdirSync(join(folder, 'project', 'src'), { recursive: true });
		writeFileSync(join(folder, 'project', 'README'), 'read me');
		writeFileSync(join(folder, 'project', 'src', 'main.py'), 'print(42)');
		const box = await page.getByRole('tree').boundingBox();
		for (const type of ['dragEnter', 'dragOver', 'drop'] as const)
			await session.send('Input.dispatchDragEvent', {
				type,
				x: (box?.x ?? 0) + 20,
				y: (box?.y ?? 0) + 20,
				data: { items: [], files: [join(folder, 'project')], dragOperationsMask: 1 }
			});
		await page.getByText('Uploaded 2 files to /home/user').waitFor();
		await page.getByRole('treeitem', { name: 'project' }).waitFor();
		expect((await read('/home/user/project/src/main.py')).bytes.toString()).toBe('print(42)');
		expect((await read('/home/user/project/README')).bytes.toString()).toBe('read me');
	}));

it('shows what runs and ends it, the log, the history, and charts of what it uses', () =>
	withPage(async (page) => {
		const id = await sandbox();
		await api('POST', `/v1/sandboxes/${id}/exec`, {
			cmd: 'sleep',
			args: ['4242'],
			background: true,
			tag: 'nap'
		});
		// What it does now is on its first page, which leads on to all of it.
		await enter(page, `/dashboard/sandboxes/${id}`);
		await page.locator('[data-at-work=processes]').getByText('sleep 4242').waitFor();
		await page
			.getByRole('log', { name: 'Last in its log' })
			.getByText(/started as/)
			.waitFor();
		await inspect(page, 'sandbox-at-work', true);
		await page.getByRole('link', { name: 'Whole log' }).click();
		await page.waitForURL(/\/logs$/);
		await page.goBack();
		await page.getByRole('link', { name: 'All processes' }).click();
		await page.waitForURL(/\/processes$/);
		const row = page.locator('[data-row]').filter({ hasText: '4242' });
		await row.getByText('nap').waitFor();
		await inspect(page, 'processes');
		await row.getByRole('button', { name: /Actions for/ }).click();
		await page.getByRole('menuitem', { name: /Kill/ }).click();
		await row.waitFor({ state: 'detached' });

		await page.getByRole('link', { name: 'Logs' }).click();
		await page.getByRole('log', { name: 'Log' }).waitFor();
		await inspect(page, 'logs');

		await page.getByRole('link', { name: 'Metrics' }).click();
		await page.locator('figure canvas').nth(3).waitFor();
		await page.locator('figure', { hasText: 'Memory' }).getByText(/B$/).first().waitFor();
		await inspect(page, 'metrics');

		await page.getByRole('link', { name: 'Events' }).click();
		await page.locator('[data-row]').getByText('Running').waitFor();
		await api('POST', `/v1/sandboxes/${id}/pause`);
		await page.locator('[data-row]').getByText('Paused').waitFor();
		await inspect(page, 'events');
		await page.getByRole('link', { name: 'Processes' }).click();
		await page.getByRole('button', { name: 'Resume it' }).click();
		await page.getByText('Nothing runs that was started from outside').waitFor();
	}));

it('says of one that stands still what was kept, since when, by whom, and what a resume does; of one that is over what is left', () =>
	withPage(async (page) => {
		const id = await sandbox();
		await api('POST', `/v1/sandboxes/${id}/exec`, {
			cmd: 'sh',
			args: ['-c', 'head -c 8M /dev/urandom > /home/user/data; sync']
		});
		const metrics = () => api<{ points: unknown[] }>('GET', `/v1/sandboxes/${id}/metrics?range=5m`);
		await expect.poll(async () => (await metrics()).points.length, { timeout: 60_000 }).toBeGreaterThan(3);
		const asked: string[] = [];
		page.on('request', (request) => asked.push(new URL(request.url()).pathname.split('/').pop() ?? ''));
		await enter(page, `/dashboard/sandboxes/${id}`);
		await page.locator('[data-at-work=log]').waitFor();
		await page.getByRole('button', { name: 'Pause' }).click();
		const rest = page.locator('[data-at-rest=paused]');
		await rest.getByText(/^Resumed, it goes on where it was/).waitFor();
		await rest.getByText('on request').waitFor();
		await rest.getByText(`by ${credentials.admin_email}`, { exact: true }).first().waitFor();
		const fact = (name: string) => rest.locator('dl > div', { hasText: name }).locator('dd');
		await expect.poll(() => fact('Files written').innerText()).toMatch(/^[\d.]+ [kM]?B of 5 GB$/);
		await expect.poll(() => fact('Memory used last').innerText()).toMatch(/^[\d.]+ [kM]?B of 256 MB$/);
		expect(await fact('Since').locator('time').getAttribute('title')).toMatch(/\d{4}.*\d\d:\d\d/);
		await rest.locator('figure canvas').nth(1).waitFor();
		await rest.getByRole('listitem').filter({ hasText: 'Sandbox paused' }).waitFor();
		await inspect(page, 'sandbox-paused', true);
		await page.setViewportSize({ width: 1920, height: 1080 });
		await inspect(page, 'sandbox-paused-wide', true);
		// Looking has not woken it.
		expect((await api<{ status: string }>('GET', `/v1/sandboxes/${id}`)).status).toBe('paused');

		await page.getByRole('button', { name: 'Resume' }).click();
		await rest.waitFor({ state: 'detached' });
		await page.locator('[data-at-work=log]').waitFor();
		await api('DELETE', `/v1/sandboxes/${id}`);
		const over = page.locator('[data-at-rest=stopped]');
		await over.getByText('Nothing', { exact: true }).waitFor();
		await over.getByRole('listitem').filter({ hasText: 'Sandbox deleted' }).waitFor();
		await over.getByText(/^atoll sandbox create --template base --vcpus 1 --memory 256/).waitFor();
		expect(await over.locator('dl > div', { hasText: 'Ran' }).locator('dd').innerText()).toMatch(
			/, 2 times$/
		);
		await inspect(page, 'sandbox-stopped', true);
		// Of what is over nothing is measured: a fresh look asks for it.
		asked.length = 0;
		await page.reload();
		await over.getByRole('listitem').filter({ hasText: 'Sandbox deleted' }).waitFor();
		expect(asked).not.toContain('metrics');
	}));

it('breaks commands between words, not at the hyphens of names', () =>
	withPage(
		async (page) => {
			const id = await sandbox();
			await enter(page, `/dashboard/sandboxes/${id}`);
			const command = page.locator('code', { hasText: 'atoll cp' });
			await command.waitFor();
			expect(await command.innerText()).toBe(`atoll cp ./data ${id}:/home/user/data`);
			for (const width of [768, 1024, 1280]) {
				await page.setViewportSize({ width, height: 800 });
				const lines = await command.evaluate((code) =>
					[...code.children].map((word) => Math.round(word.getBoundingClientRect().height / 18))
				);
				expect(lines, `at ${width}`).toEqual(lines.map(() => 1));
			}
		},
		{ width: 768 }
	));

it('draws only the files in view of a folder with thousands, and reaches the last by a key', () =>
	withPage(async (page) => {
		const id = await sandbox();
		await api('POST', `/v1/sandboxes/${id}/exec`, {
			cmd: 'sh',
			args: ['-c', 'mkdir /home/user/many && cd /home/user/many && seq -f file-%05g 1 3000 | xargs touch']
		});
		await enter(page, `/dashboard/sandboxes/${id}/files`);
		await page.getByRole('treeitem', { name: 'many' }).click();
		const first = page.getByRole('treeitem', { name: 'file-00001' });
		await first.waitFor();
		expect(await first.getAttribute('aria-setsize')).toBe('3000');
		expect(await page.getByRole('treeitem').count()).toBeLessThan(100);
		await first.click();
		await page.keyboard.press('End');
		await page.keyboard.press('Home');
		await page.getByRole('tree').evaluate((tree) => tree.scrollTo({ top: tree.scrollHeight / 2 }));
		await page.getByRole('treeitem', { name: 'file-01500' }).waitFor();
		expect(await page.getByRole('treeitem').count()).toBeLessThan(100);
		await inspect(page, 'files-many');
	}));

it('makes a sandbox that reaches only what is named, and changes that while it lives', () =>
	withPage(
		async (page) => {
			await enter(page);
			await page.keyboard.press('c');
			const dialog = page.getByRole('dialog');
			await dialog.getByText(/^Isolation, network/).click();
			await dialog.getByLabel('May reach').click();
			await page.getByRole('option', { name: /^Only these/ }).click();
			await dialog.getByLabel('Nothing but').fill('not a name at all!');
			await dialog.getByRole('button', { name: 'Create sandbox' }).click();
			await dialog.locator('textarea[aria-invalid=true]').waitFor();
			await inspect(page, 'create-network');
			await dialog.getByLabel('Nothing but').fill('pypi.org *.pythonhosted.org');
			await dialog.getByLabel('Bandwidth').fill('2097152');
			await dialog.getByLabel('Isolation').click();
			await page.getByRole('option', { name: /^Container/ }).click();
			const created = page.waitForRequest((request) => request.method() === 'POST');
			await dialog.getByRole('button', { name: 'Create sandbox' }).click();
			await page.waitForURL(/\/sandboxes\/sb-[a-z0-9]{20}$/);
			await page.getByText('only pypi.org, *.pythonhosted.org').waitFor();
			await page.getByText('2 MB a second each way').waitFor();
			expect((await created).postDataJSON()).toMatchObject({
				driver: 'container',
				internet: true,
				network: {
					allow_out: ['pypi.org', '*.pythonhosted.org'],
					deny_out: ['0.0.0.0/0'],
					bandwidth_bytes_per_second: 2_097_152
				}
			});
			await page.getByRole('button', { name: 'More' }).click();
			await page.getByRole('menuitem', { name: /What it may reach/ }).click();
			expect(await dialog.getByLabel('Nothing but').inputValue()).toBe('pypi.org\n*.pythonhosted.org');
			expect(await dialog.getByLabel('Bandwidth').inputValue()).toBe('2097152');
			await dialog.getByLabel('Bandwidth').fill('');
			await inspect(page, 'network');
			await dialog.getByLabel('May reach').click();
			await page.getByRole('option', { name: /^Nothing/ }).click();
			await dialog.getByRole('button', { name: 'Change it' }).click();
			await page.getByText('Its network rules are changed').waitFor();
			const id = new URL(page.url()).pathname.split('/').at(-1) ?? '';
			const after = await api<{ network?: object }>('GET', `/v1/sandboxes/${id}`);
			expect(after).toMatchObject({ internet: false });
			expect(after.network).toBeUndefined();
		},
		{ expected: /400/ }
	));

it('links to a port that a program in it serves, and changes what becomes of it when nobody uses it', () =>
	withPage(async (page, context) => {
		const id = await sandbox();
		await api('POST', `/v1/sandboxes/${id}/exec`, {
			cmd: 'sh',
			args: [
				'-c',
				'mkdir /tmp/www && echo from inside > /tmp/www/index.html && cd /tmp/www && exec python3 -m http.server 8000'
			],
			background: true
		});
		await enter(page, `/dashboard/sandboxes/${id}`);
		await page.getByRole('button', { name: 'More' }).click();
		await page.getByRole('menuitem', { name: /Link to a port/ }).click();
		const dialog = page.getByRole('dialog');
		await dialog.getByLabel('Port').fill('8000');
		await dialog.getByRole('button', { name: 'Make the link' }).click();
		const url = await dialog.getByLabel('Address').inputValue();
		await inspect(page, 'port-link');
		const other = await context.newPage();
		await expect.poll(async () => (await other.goto(url))?.status()).toBe(200);
		await other.getByText('from inside').waitFor();
		await other.close();
		await dialog.getByRole('button', { name: 'Done' }).click();

		await page.getByText('goes on').waitFor();
		await page.getByRole('button', { name: 'More' }).click();
		await page.getByRole('menuitem', { name: /When nobody uses it/ }).click();
		await dialog.getByLabel('When idle for').click();
		await page.getByRole('option', { name: '2 hours' }).click();
		await inspect(page, 'idle');
		await dialog.getByRole('button', { name: 'Change it' }).click();
		await page.getByText('paused after 2 h').waitFor();
		expect(await api('GET', `/v1/sandboxes/${id}`)).toMatchObject({ timeout_sec: 7200, on_timeout: 'pause' });
	}));
