"""The former name of `measure.py install`; removed in version 1.1."""

from measure import alias

if __name__ == '__main__':
    alias('install')
