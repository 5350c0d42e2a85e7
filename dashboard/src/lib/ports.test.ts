import { expect, it } from 'vitest';

import { portAddress } from './ports';

it('is a name below the domain of the server, reached as the page was', () => {
	const sandbox = 'sb-um20dzw3krrdm8mdl97f';
	expect(portAddress(new URL('https://atoll.example.com/x'), 'sbx.example.com', sandbox, 8000)).toBe(
		'https://8000-ium20dzw3krrdm8mdl97f.sbx.example.com/'
	);
	expect(portAddress(new URL('http://127.0.0.1:7420'), 'sbx.localhost', sandbox, 80)).toBe(
		'http://80-ium20dzw3krrdm8mdl97f.sbx.localhost:7420/'
	);
	expect(portAddress(new URL('https://a.b:8443'), 'sbx.test:9443', sandbox, 3000)).toBe(
		'https://3000-ium20dzw3krrdm8mdl97f.sbx.test:9443/'
	);
});
