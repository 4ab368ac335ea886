"""List the network choices: form, embedding, parameters and multiply-adds for one image."""
from project import Parser, run

import config as host
import tables
from network import build, choose, count_macs, count_parameters

COLUMNS = ('network', 'input', 'output', 'parameters', 'MACs/image')


def summary(network):
    """Return a network choice's row of the table."""
    config = choose(network)
    symbol, shape = build(config), config.image_shape
    return (network, '%d×%d' % tuple(shape[:2]), str(config.emb_size),
            '{:,}'.format(count_parameters(symbol, shape)), '%.3f G' % (count_macs(symbol, shape) / 1e9))


def main():
    parser = Parser(prog='summarize.py', description=__doc__)
    parser.add_argument('networks', nargs='*', metavar='NETWORK', help='network choices (default: all of them)')
    parser.add_argument('--markdown', action='store_true', help='print a Markdown table')
    args = parser.parse_args()
    rows = [summary(network) for network in args.networks or host.network]
    if args.markdown:
        tables.show_markdown(COLUMNS, rows)
    else:
        tables.show('network choices', COLUMNS, rows)


if __name__ == '__main__':
    run(main)
