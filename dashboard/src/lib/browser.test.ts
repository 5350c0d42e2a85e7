import { expect, it } from 'vitest';

import { browserName } from './browser';

it.each([
	[
		'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36',
		'Chrome on Linux'
	],
	[
		'Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) AppleWebKit/605 (KHTML, like Gecko) Version/19.0 Safari/605',
		'Safari on macOS'
	],
	['Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0', 'Firefox on Windows'],
	['atoll/0.1.0', 'atoll'],
	[null, 'Something that doesn’t say what it is']
])('calls "%s" %s', (agent, name) => expect(browserName(agent)).toBe(name));
