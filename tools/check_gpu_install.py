"""The former name of `measure.py install`, which goes with version 1.1."""

from measure import alias

if __name__ == '__main__':
    alias('install')
